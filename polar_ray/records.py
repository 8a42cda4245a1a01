"""Records: what callers score, and the only conversion of records into a request table.

A record is a (prompt, reference, output) of strings or chat messages. A bad record does not fail
its batch: its row is null, and the reason is kept beside the table. The tables themselves are
`tables` (requests) and `scores` (results), whose public names can be imported from here, too.
Knows nothing of tokens, models or transport.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from polar_ray.errors import (
    ROW_ERRORS,
    RecordError,
    bad_wrapper,
    missing_field,
    null_field,
    row_error,
)
from polar_ray.messages import NotText, text_of
from polar_ray.scores import (
    METADATA_PREFIX,
    SCORE_SCHEMA,
    check_scores,
    empty_scores,
    poisoned_scores,
    provenance,
    score_table,
    with_row_errors,
)
from polar_ray.tables import (
    OPTIONAL_COLUMNS,
    TEXT_COLUMNS,
    WHOLE,
    WRAPPERS,
    check_table,
    extra_columns,
    unknown_columns,
    without_views,
)

__all__ = [
    "ID_KINDS",
    "METADATA_PREFIX",
    "OPTIONAL_COLUMNS",
    "ROW_ERRORS",
    "SCORE_SCHEMA",
    "TEXT_COLUMNS",
    "WRAPPERS",
    "Batch",
    "Ignored",
    "Message",
    "Record",
    "Records",
    "Trajectories",
    "Unread",
    "bad_wrapper",
    "check_scores",
    "check_table",
    "empty_scores",
    "id_array",
    "null_field",
    "poisoned_scores",
    "provenance",
    "row_error",
    "score_table",
    "to_batch",
    "with_row_errors",
]

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]
"""One chat message, `{"role": ..., "content": ...}`; only the content is read."""


@dataclass(frozen=True, slots=True)
class Record:
    """One thing to score: is `output` as good an answer to `prompt` as `reference` is?

    Each of the three is a string or a list of chat messages, whose contents are joined by a
    newline (roles are dropped, as POLAR's own client does).
    """

    prompt: str | Sequence[Message]
    reference: str | Sequence[Message]
    output: str | Sequence[Message]
    wrapper: Literal["sft", "pretrain"] = "sft"
    id: str | int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A request table and the rows that were bad before they reached it.

    A bad row is null in `table`; its reason stands in `errors` under its index.
    """

    table: pa.Table
    errors: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unread:
    """Stands for a record that its reader left out; `error` is what its row says."""

    error: str


@dataclass(frozen=True, slots=True)
class Trajectories:
    """Stands for a record whose client has run POLAR's template: what was before the separator, and
    what was behind it, the prompt in both."""

    reference: str
    candidate: str


Records: TypeAlias = Iterable[Record | Mapping[str, Any]] | pa.Table
"""What callers give: records, or a table of them."""


class Ignored:
    """What one caller's records have beside a record's columns, such as the columns of a dataset:
    it is left out, and the log names it once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def leave_out(self, names: Sequence[str]) -> None:
        """Hears of columns that are left out."""
        if new := {name[:80] for name in names} - self._told:
            logger.warning("ignoring extra column(s): %s", ", ".join(sorted(new)))
            self._told |= new


class _BadRow(Exception):
    """Carries a row's error text out of the parsing functions of this file."""


def to_batch(records: Records, ignored: Ignored | None = None) -> Batch:
    """Records, or a table of them (Arrow's, or a data frame that exports one), as a checked batch.

    Raises `RecordError` if this is no batch at all (a string, a column that does not exist). A
    single bad record is not an error of the batch: it is listed in `Batch.errors`. Other columns
    are left out where somebody takes note of them in `ignored`.
    """
    if isinstance(records, pa.Table | pa.RecordBatch):
        return Batch(check_table(_without_extra(records, ignored)))
    if hasattr(records, "__arrow_c_stream__"):
        # A data frame, whose iteration would give its columns.
        try:
            table = without_views(pa.table(records))
        except (pa.ArrowException, TypeError, ValueError) as error:
            kind = type(records).__name__
            raise RecordError(f"{kind} does not become an Arrow table: {error}") from None
        return Batch(check_table(_without_extra(table, ignored)))
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
        raise RecordError(
            f"a batch is a list of records or an Arrow table, not {type(records).__name__}; "
            "put a single record into a list"
        )
    rows = _Rows()
    errors: dict[int, str] = {}
    for index, record in enumerate(records):
        try:
            row = _parse(index, record, ignored)
        except _BadRow as error:
            errors[index] = str(error)
            row = {"id": _id(index, record)} if isinstance(record, Mapping) else {}
        rows.add(row)
    return Batch(rows.table(), errors)


def _without_extra(
    table: pa.Table | pa.RecordBatch, ignored: Ignored | None
) -> pa.Table | pa.RecordBatch:
    try:
        names = table.schema.names
    except UnicodeDecodeError:  # `check_table` says so
        return table
    if ignored is None or not (extra := extra_columns(names)):
        return table
    ignored.leave_out(extra)
    return table.select([at for at, name in enumerate(names) if name not in extra])


def _parse(index: int, record: Any, ignored: Ignored | None) -> dict[str, Any]:
    if isinstance(record, Record):
        row: Mapping[str, Any] = {name: getattr(record, name) for name in Record.__slots__}
    elif isinstance(record, Mapping):
        row = record
    elif isinstance(record, Trajectories):
        whole = {"prompt": "", "reference": record.reference, "output": record.candidate}
        return {**{name: _flatten(name, whole) for name in whole}, "wrapper": WHOLE}
    elif isinstance(record, Unread):
        raise _BadRow(record.error)
    else:
        raise _BadRow(
            row_error(
                "not_an_object",
                f"got {type(record).__name__}; send an object with prompt, reference and output",
            )
        )
    if extra := extra_columns(row):
        if ignored is None:
            raise RecordError(unknown_columns(extra, f"record {index}"))
        ignored.leave_out(extra)
    parsed = {name: _flatten(name, row) for name in TEXT_COLUMNS}
    wrapper = row.get("wrapper")
    if wrapper is not None and not (isinstance(wrapper, str) and wrapper in WRAPPERS):
        raise _BadRow(bad_wrapper(wrapper))
    return {**parsed, "wrapper": wrapper, "id": _id(index, row)}


def _id(index: int, row: Mapping[str, Any]) -> Any:
    value = row.get("id")
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, bool) and isinstance(value, Integral):
        return value
    raise RecordError(f"{ID_KINDS}; that of record {index} is {type(value).__name__}")


def _flatten(name: str, row: Mapping[str, Any]) -> str:
    """A field as one string: itself, or its messages' contents joined by newlines."""
    if name not in row:
        raise _BadRow(missing_field(name))
    value = row[name]
    if value is None:
        raise _BadRow(null_field(name))
    try:
        text = text_of(name, value)
        text.encode()
    except NotText as error:
        raise _BadRow(row_error("bad_message", str(error))) from None
    except UnicodeEncodeError as error:
        raise _BadRow(
            row_error("bad_text", f"{name} holds a lone surrogate at character {error.start}")
        ) from None
    return text


ID_KINDS = "ids must all be strings or all be integers"
BLOCK_CHARS = 1 << 20


class _Rows:
    """Parsed rows on their way into a table. They become Arrow by the block: a Python string takes
    up to four times the bytes of its UTF-8."""

    def __init__(self) -> None:
        self._row: dict[str, list[Any]] = {name: [] for name in (*TEXT_COLUMNS, *OPTIONAL_COLUMNS)}
        self._chars = 0
        self._wrapped = False
        self._blocks: dict[str, list[pa.Array]] = {name: [] for name in self._row}

    def add(self, row: Mapping[str, Any]) -> None:
        """One row; what it lacks is null."""
        for name, values in self._row.items():
            value = row.get(name)
            values.append(value)
            self._chars += len(value) if isinstance(value, str) else 0
        self._wrapped |= row.get("wrapper") not in (None, "sft")
        if self._chars >= BLOCK_CHARS:
            self._close_block()

    def table(self) -> pa.Table:
        """The rows as a request table, without the optional columns that nobody used."""
        self._close_block()
        blocks = self._blocks
        if not self._wrapped:
            del blocks["wrapper"]
        if all(block.type == pa.null() for block in blocks["id"]):
            del blocks["id"]
        # Column by column, so that not all of them are there twice.
        joined = [(name, _join(name, blocks.pop(name))) for name in list(blocks)]
        return pa.table(dict(joined))

    def _close_block(self) -> None:
        for name, values in self._row.items():
            block = id_array(values) if name == "id" else pa.array(values, pa.string())
            self._blocks[name].append(block)
            values.clear()
        self._chars = 0


def id_array(ids: list[Any]) -> pa.Array:
    """Strings, integers, or nothing but nulls. Raises `RecordError`."""
    try:
        return pa.array(ids)
    except OverflowError:
        large = next(i for i in ids if isinstance(i, Integral) and abs(int(i)) >> 63)
        raise RecordError(
            f"ids must fit into 64 bits where they are integers; {large} does not, write it as text"
        ) from None
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError) as error:
        raise RecordError(f"{ID_KINDS}: {error}") from None


def _join(name: str, blocks: list[pa.Array]) -> pa.ChunkedArray:
    kinds = {block.type for block in blocks} - {pa.null()}
    if len(kinds) > 1:
        # Integers of several widths become one; text and integers are refused.
        blocks = [id_array([i for block in blocks for i in block.to_pylist()])]
        kinds = {blocks[0].type}
    column = pa.chunked_array([block.cast(*kinds) for block in blocks])
    # A table's way makes several chunks of what does not fit into one.
    return pa.table({name: column}).combine_chunks()[name]
