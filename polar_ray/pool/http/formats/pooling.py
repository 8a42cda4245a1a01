"""vllm's `POST /pooling`.

POLAR's client sends `input` alone, to vllm and to lmdeploy alike, so that lmdeploy's has another
address: see `lmdeploy`. Source: vllm 0.33.0, `entrypoints/pooling/pooling`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from polar_ray.pool.http.formats.openai import ListBody, VllmFields, as_list
from polar_ray.pool.http.formats.ready_texts import rows_of
from polar_ray.pool.http.formats.wire import Format, Question, Scored, read_fields
from polar_ray.pool.http.object_body import JsonObject


class PoolingBody(VllmFields):
    """vllm squashes scores if `use_activation` is left out; this pool never does."""

    input: str | list[str]
    add_special_tokens: bool = True
    task: Literal["classify", "token_classify", "reward"] | None = None
    encoding_format: Literal["float"] = "float"
    embed_dtype: Literal["float32"] = "float32"
    dimensions: None = None


class PoolingRow(BaseModel):
    """`data` ends with the last token's value, of which there is one: the score."""

    index: int
    object: Literal["pooling"]
    data: list[list[float]]


class PoolingList(ListBody):
    """vllm's answer."""

    data: list[PoolingRow]


def read(body: JsonObject) -> Question:
    """A list of texts, or one; both are answered by a list."""
    read_fields(PoolingBody, body)
    return Question(rows_of(body, "input"), _answer)


def _answer(scored: Scored) -> dict[str, Any]:
    data = [
        {"index": at, "object": "pooling", "data": [[score]]}
        for at, score in enumerate(scored.scores)
    ]
    return as_list("pool", scored, data)


FORMAT = Format(("/pooling",), "vllm's rewards of ready-made texts", PoolingBody, PoolingList, read)
