"""What a wire format is: a body that becomes rows, and their scores that become its answer.

None of these formats can say that a row has no score, so that a request is answered whole or not at
all. Knows no single format; imports neither ray nor fastapi.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from polar_ray.config_base import show
from polar_ray.errors import RecordError
from polar_ray.pool.http.object_body import JsonObject
from polar_ray.records import Batch, Trajectories, Unread, provenance, to_batch

Row = Trajectories | Mapping[str, Any] | Unread


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a request, one for each of its rows, in order."""

    scores: list[float]
    num_tokens: list[int]
    model: str

    @property
    def usage(self) -> dict[str, Any]:
        """As OpenAI and those after it count; nothing is generated here."""
        tokens = sum(self.num_tokens)
        return {"prompt_tokens": tokens, "total_tokens": tokens}


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks: rows that are scored, and what is made of their scores."""

    rows: Iterable[Row]
    answer: Callable[[Scored], Any]


@dataclass(frozen=True, slots=True)
class Format:
    """One server's way to ask for scores. `request` and `response` describe it on the page."""

    paths: tuple[str, ...]
    summary: str
    request: type[BaseModel]
    response: Any
    read: Callable[[JsonObject], Question]


class Fields(BaseModel):
    """The keys of a request. Whatever would change the scores has a type here that allows only what
    leaves them as they are; keys that nobody declared are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    why: ClassVar[Mapping[str, str]] = {
        "dimensions": "a score has one",
        "embed_dtype": "scores are numbers of JSON",
        "encoding_format": "scores are numbers of JSON; send 'float' or leave it out",
        "input_ids": "the pool makes token ids by itself; send text",
        "normalize": "POLAR's scores have no bounds, and are not squeezed into any",
        "truncate_prompt_tokens": "a text is scored whole; the client has cut it",
        "use_activation": "POLAR's scores have no activation; send false or leave it out",
    }
    """Why a key is not taken, or not with another value."""

    model: str | None = None
    """Any name; answers name the model that scored."""


F = TypeVar("F", bound=Fields)


def read_fields(kind: type[F], body: JsonObject) -> F:
    """The keys of a body, its arrays empty. `RecordError` names the first that is not as it should
    be."""
    try:
        return kind.model_validate(body.values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        # A key that is not taken says more than one that is missing in its place.
        first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
        key = str(first["loc"][0]) if first["loc"] else ""
        why = f"; {kind.why[key]}" if key in kind.why else ""
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise RecordError(f"{key!r:.80} is not taken{why}; there are {known}") from None
        if first["type"] == "missing":
            raise RecordError(f"{key!r:.80} is missing") from None
        shown = show(first["input"])
        raise RecordError(f"{key!r:.80} is {shown}: {first['msg']:.200}{why}") from None


def batch_of(question: Question) -> Batch:
    """The rows of a question. Raises `RecordError` where some cannot be scored."""
    batch = to_batch(question.rows)
    _check_rows(batch.errors, batch.table.num_rows)
    return batch


def scored(table: pa.Table) -> Scored:
    """The scores of a result table. Raises `RecordError` where rows have none."""
    texts = table["error"].to_pylist() if table["score"].null_count else []
    _check_rows({at: text for at, text in enumerate(texts) if text is not None}, table.num_rows)
    return Scored(
        table["score"].to_pylist(), table["num_tokens"].to_pylist(), provenance(table)["model"]
    )


def _check_rows(errors: Mapping[int, str], num_rows: int) -> None:
    if not errors:
        return
    shown = "; ".join(f"row {at}: {text:.400}" for at, text in sorted(errors.items())[:3])
    more = f"; and rows {', '.join(map(str, sorted(errors)[3:20]))}" if len(errors) > 3 else ""
    raise RecordError(
        f"{len(errors)} of {num_rows} row(s) have no score, and this format cannot say so row by "
        f"row, as POST /score does: {shown}{more}"
    )
