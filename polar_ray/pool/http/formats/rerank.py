"""`POST /v1/rerank` and `/rerank` as vllm and Jina answer them: documents by falling score. The
query is the reference's trajectory (prompt, line break, reference), each document a candidate's
(prompt, line break, output). Source: vllm 0.33.0, `entrypoints/pooling/scoring`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, Field

from polar_ray.pool.http.formats.openai import UsageBody, VllmFields
from polar_ray.pool.http.formats.pairs import pair
from polar_ray.pool.http.formats.ready_texts import texts_of
from polar_ray.pool.http.formats.wire import Format, Question, Row, Scored, read_fields
from polar_ray.pool.http.object_body import JsonObject


class RerankBody(VllmFields):
    """`top_n` 0 gives all."""

    query: str
    documents: str | list[str]
    top_n: Annotated[int, Field(ge=0)] = 0


class RerankDocument(BaseModel):
    """What was sent."""

    text: str


class RerankRow(BaseModel):
    """`relevance_score` is POLAR's, without bounds."""

    index: int
    document: RerankDocument
    relevance_score: float


class RerankList(BaseModel):
    """vllm's answer."""

    id: str
    model: str
    usage: UsageBody
    results: list[RerankRow]


def read(body: JsonObject) -> Question:
    """One row for each document."""
    fields = read_fields(RerankBody, body)
    documents = texts_of(body, "documents")

    def answer(scored: Scored) -> dict[str, Any]:
        rows = [
            {"index": at, "document": {"text": text}, "relevance_score": score}
            for at, (text, score) in enumerate(zip(documents(), scored.scores, strict=True))
        ]
        rows.sort(key=lambda row: scored.scores[row["index"]], reverse=True)  # type: ignore[call-overload]
        return {
            "id": f"rerank-{uuid.uuid4().hex}",
            "model": scored.model,
            "usage": scored.usage,
            "results": rows[: fields.top_n or None],
        }

    def rows() -> Iterator[Row]:
        return (pair(fields.query, document) for document in documents())

    return Question(rows(), answer)


FORMAT = Format(
    ("/v1/rerank", "/rerank"),
    "Candidates by falling score",
    RerankBody,
    RerankList,
    read,
)
