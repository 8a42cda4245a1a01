"""`POST /v1/embeddings` as sglang answers it for a reward model: the embedding is the score. verl's
client of discriminative reward models asks so where its engine is sglang. Source: sglang 0.5.23,
`srt/entrypoints/openai`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from polar_ray.pool.http.formats.openai import InputFields, UsageBody
from polar_ray.pool.http.formats.ready_texts import rows_of
from polar_ray.pool.http.formats.rids import rids_of
from polar_ray.pool.http.formats.wire import Format, Question, Scored, read_fields
from polar_ray.pool.http.object_body import JsonObject


class EmbeddingsBody(InputFields):
    """OpenAI's own client sends `encoding_format` base64 unless it is told "float"."""

    encoding_format: Literal["float"] = "float"
    dimensions: None = None
    rid: str | list[str] | None = None


class EmbeddingRow(BaseModel):
    """`embedding` holds the score alone."""

    object: Literal["embedding"]
    index: int
    embedding: list[float]


class EmbeddingList(BaseModel):
    """OpenAI's shape."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingRow]
    usage: UsageBody


def read(body: JsonObject) -> Question:
    """A list of texts, or one; both are answered by a list."""
    read_fields(EmbeddingsBody, body)
    rids_of(body, "input")  # sglang's answer does not name them, but refuses what does not fit
    return Question(rows_of(body, "input"), _answer)


def _answer(scored: Scored) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": at, "embedding": [score]}
        for at, score in enumerate(scored.scores)
    ]
    return {"object": "list", "model": scored.model, "data": data, "usage": scored.usage}


FORMAT = Format(
    ("/v1/embeddings",),
    "Rewards of ready-made texts in place of embeddings",
    EmbeddingsBody,
    EmbeddingList,
    read,
)
