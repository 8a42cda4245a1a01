"""sglang's `POST /encode`, and its `/classify`, which is the same: a reward is the embedding's only
number. Source: sglang 0.5.23, `srt/managers/io_struct.py` and `tokenizer_manager.py`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from polar_ray.pool.http.formats.ready_texts import is_one, rows_of
from polar_ray.pool.http.formats.rids import rids_of
from polar_ray.pool.http.formats.wire import Fields, Format, Question, Scored, read_fields
from polar_ray.pool.http.object_body import JsonObject


class EncodeBody(Fields):
    """POLAR's client sends `model` and `text`. `rid` names each text, and comes back with it."""

    text: str | list[str]
    rid: str | list[str] | None = None
    log_metrics: bool = True


class EncodeMeta(BaseModel):
    """What sglang says of a text, as far as there is something to say here."""

    id: str
    prompt_tokens: int


class EncodeRow(BaseModel):
    """`embedding` holds the score alone."""

    embedding: list[float]
    meta_info: EncodeMeta


def read(body: JsonObject) -> Question:
    """A list of texts is answered by a list, one text by one object."""
    read_fields(EncodeBody, body)
    alone, rids = is_one(body, "text"), rids_of(body, "text")

    def answer(scored: Scored) -> Any:
        rows = [
            {"embedding": [score], "meta_info": {"id": rid, "prompt_tokens": tokens}}
            for rid, score, tokens in zip(rids, scored.scores, scored.num_tokens, strict=True)
        ]
        return rows[0] if alone else rows

    return Question(rows_of(body, "text"), answer)


FORMAT = Format(
    ("/encode",),
    "sglang's rewards of ready-made texts",
    EncodeBody,
    list[EncodeRow] | EncodeRow,
    read,
)
