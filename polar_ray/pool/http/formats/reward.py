"""slime's remote reward model, at `POST /reward`: one rollout, answered by a bare number. Source:
slime at 624b824a8, `rollout/rm_hub`."""

from __future__ import annotations

from polar_ray.client.end_tokens import without_end
from polar_ray.pool.http.formats.wire import Fields, Format, Question, Scored, read_fields
from polar_ray.pool.http.object_body import JsonObject
from polar_ray.pool.http.openapi import MessageBody


class RewardBody(Fields):
    """`prompt` is a text or chat messages, `label` the reference."""

    prompt: str | list[MessageBody]
    response: str
    label: str


def read(body: JsonObject) -> Question:
    """One row."""
    fields = read_fields(RewardBody, body)
    row = {
        "prompt": body.value("prompt"),
        "reference": fields.label,
        "output": without_end(fields.response),
    }
    return Question([row], _answer)


def _answer(scored: Scored) -> float:
    return scored.scores[0]


FORMAT = Format(("/reward",), "slime's remote reward model", RewardBody, float, read)
