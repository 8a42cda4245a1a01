"""`POST /classify`, which two servers have: sglang's takes `text`, vllm's takes `input`, by which
they are told apart. verl's client of discriminative reward models asks vllm's, with
`use_activation` false. Source: vllm 0.33.0, `entrypoints/pooling/classify`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, RootModel

from polar_ray.pool.http.formats import encode
from polar_ray.pool.http.formats.openai import ListBody, VllmFields, as_list
from polar_ray.pool.http.formats.ready_texts import rows_of
from polar_ray.pool.http.formats.wire import Format, Question, Scored, read_fields
from polar_ray.pool.http.object_body import JsonObject


class VllmClassifyBody(VllmFields):
    """vllm's body."""

    input: str | list[str]
    add_special_tokens: bool = True


class ClassifyBody(RootModel[encode.EncodeBody | VllmClassifyBody]):
    """sglang's or vllm's."""


class ClassifyRow(BaseModel):
    """`probs` holds the score alone, which is no probability."""

    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class ClassifyList(ListBody):
    """vllm's answer."""

    data: list[ClassifyRow]


def read(body: JsonObject) -> Question:
    """sglang's question, or vllm's."""
    if "text" in body.values or "input" not in body.values:
        return encode.read(body)
    read_fields(VllmClassifyBody, body)
    return Question(rows_of(body, "input"), _answer)


def _answer(scored: Scored) -> dict[str, Any]:
    data = [
        {"index": at, "label": "LABEL_0", "probs": [score], "num_classes": 1}
        for at, score in enumerate(scored.scores)
    ]
    return as_list("classify", scored, data)


FORMAT = Format(
    ("/classify",),
    "sglang's or vllm's rewards of ready-made texts",
    ClassifyBody,
    list[encode.EncodeRow] | encode.EncodeRow | ClassifyList,
    read,
)
