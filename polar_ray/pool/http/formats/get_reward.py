"""OpenRLHF's `POST /get_reward`: a query is a prompt and what the policy wrote behind it, a label
the reference. Source: OpenRLHF 0.11.2, `cli/serve_rm.py` and `utils/agent.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from polar_ray.client.end_tokens import without_end
from polar_ray.errors import RecordError, row_error
from polar_ray.pool.http.formats.wire import Fields, Format, Question, Row, Scored, read_fields
from polar_ray.pool.http.object_body import JsonObject
from polar_ray.records import Unread

KEYS = ("query", "prompts", "labels")


class GetRewardBody(Fields):
    """Three lists of equal lengths, which may be empty."""

    query: list[str]
    prompts: list[str]
    labels: list[str]


class RewardList(BaseModel):
    """`rewards` and `scores` are the same; `extra_logs` go to OpenRLHF's log."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


def read(body: JsonObject) -> Question:
    """One row for each query."""
    read_fields(GetRewardBody, body)
    counts = {key: body.count(key) for key in KEYS}
    if len(set(counts.values())) > 1:
        raise RecordError(f"{', '.join(KEYS)} are of equal lengths; these have {counts}")
    return Question(_rows(body), _answer)


def _rows(body: JsonObject) -> Iterator[Row]:
    for query, prompt, label in zip(*(body.items(key) for key in KEYS), strict=True):
        yield _row(query, prompt, label)


def _row(query: object, prompt: object, label: object) -> Row:
    for value in (query, prompt, label):
        if isinstance(value, Unread):
            return value
    if not (isinstance(query, str) and isinstance(prompt, str) and isinstance(label, str)):
        return Unread(row_error("bad_message", f"{', '.join(KEYS)} are lists of strings"))
    if not prompt:
        sentence = "an empty prompt: where it ends in a query nobody can say"
        return Unread(row_error("bad_template", sentence))
    if not query.startswith(prompt):
        sentence = "the query does not begin with its prompt, so that what follows is not known"
        return Unread(row_error("bad_template", sentence))
    output = without_end(query.removeprefix(prompt))
    return {"prompt": prompt, "reference": label, "output": output}


def _answer(scored: Scored) -> dict[str, Any]:
    scores = scored.scores
    return {"rewards": scores, "scores": scores, "extra_logs": {"polar_scores": scores}}


FORMAT = Format(("/get_reward",), "OpenRLHF's remote reward model", GetRewardBody, RewardList, read)
