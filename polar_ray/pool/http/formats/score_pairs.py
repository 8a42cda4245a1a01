"""vllm's `POST /v1/score`: pairs of texts. The first is the reference's trajectory (prompt, line
break, reference), the second the candidate's (prompt, line break, output). `/score` itself is this
pool's own. Source: vllm 0.33.0, `entrypoints/pooling/scoring`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any, Literal

from pydantic import BaseModel, RootModel

from polar_ray.errors import RecordError
from polar_ray.pool.http.formats.openai import ListBody, VllmFields, as_list
from polar_ray.pool.http.formats.pairs import pair
from polar_ray.pool.http.formats.ready_texts import is_one, texts_of
from polar_ray.pool.http.formats.wire import Format, Question, Row, Scored, read_fields
from polar_ray.pool.http.object_body import JsonObject


class TextPairBody(VllmFields):
    """Of equal lengths, or one `text_1` for all."""

    text_1: str | list[str]
    text_2: str | list[str]


class DataPairBody(VllmFields):
    """The same by other names."""

    data_1: str | list[str]
    data_2: str | list[str]


class QueriesBody(VllmFields):
    """The same by other names."""

    queries: str | list[str]
    documents: str | list[str]


class ScorePairsBody(RootModel[TextPairBody | DataPairBody | QueriesBody]):
    """Any of the three."""


class ScoreRow(BaseModel):
    """One pair's score."""

    index: int
    object: Literal["score"]
    score: float


class ScoreList(ListBody):
    """vllm's answer."""

    data: list[ScoreRow]


NAMES: tuple[tuple[str, str, type[VllmFields]], ...] = (
    ("text_1", "text_2", TextPairBody),
    ("data_1", "data_2", DataPairBody),
    ("queries", "documents", QueriesBody),
)


def read(body: JsonObject) -> Question:
    """One row for each pair."""
    found = (names for names in NAMES if names[0] in body.values)
    first, second, kind = next(found, NAMES[0])
    read_fields(kind, body)
    return Question(_rows(body, first, second), _answer)


def _rows(body: JsonObject, first: str, second: str) -> Iterator[Row]:
    num_first, num_second = (_count(body, key) for key in (first, second))
    if num_first not in (1, num_second):
        raise RecordError(
            f"{first!r} has {num_first} texts, {second!r} {num_second}; send as many, or one "
            f"{first!r} for all"
        )
    left, right = texts_of(body, first)(), texts_of(body, second)()
    if num_first == 1:
        left = repeat(next(iter(left)), num_second)
    return (pair(a, b) for a, b in zip(left, right, strict=True))


def _count(body: JsonObject, key: str) -> int:
    return 1 if is_one(body, key) else body.count(key)


def _answer(scored: Scored) -> dict[str, Any]:
    data = [
        {"index": at, "object": "score", "score": score} for at, score in enumerate(scored.scores)
    ]
    return as_list("score", scored, data)


FORMAT = Format(
    ("/v1/score",),
    "vllm's scores of pairs: reference's and candidate's trajectory",
    ScorePairsBody,
    ScoreList,
    read,
)
