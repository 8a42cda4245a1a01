"""lmdeploy's `/pooling`, at `POST /lmdeploy/pooling`: POLAR's client with the address
`host:port/lmdeploy` comes here. What it sends is vllm's to the byte, what it reads is not. Source:
lmdeploy 0.18.0, `serve/openai`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from polar_ray.pool.http.formats.openai import UsageBody
from polar_ray.pool.http.formats.ready_texts import rows_of
from polar_ray.pool.http.formats.wire import Fields, Format, Question, Scored, read_fields
from polar_ray.pool.http.object_body import JsonObject


class LmdeployBody(Fields):
    """POLAR's client sends `input` alone."""

    input: str | list[str]


class LmdeployRow(BaseModel):
    """`data` is the score."""

    index: int
    object: Literal["pooling"]
    data: float


class LmdeployList(BaseModel):
    """lmdeploy's answer."""

    model: str
    data: list[LmdeployRow]
    usage: UsageBody


def read(body: JsonObject) -> Question:
    """A list of texts, or one; both are answered by a list."""
    read_fields(LmdeployBody, body)
    return Question(rows_of(body, "input"), _answer)


def _answer(scored: Scored) -> dict[str, Any]:
    data = [
        {"index": at, "object": "pooling", "data": score} for at, score in enumerate(scored.scores)
    ]
    return {"model": scored.model, "data": data, "usage": scored.usage}


FORMAT = Format(
    ("/lmdeploy/pooling",),
    "lmdeploy's rewards of ready-made texts",
    LmdeployBody,
    LmdeployList,
    read,
)
