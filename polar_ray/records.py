"""Records in, scores out: the Arrow schemas and the only conversions to and from them.

Owns the contract of both tables. A request row is a (prompt, reference, output) of strings; a
result row has a finite `score` or an `error` that says why not, never both, never neither, in
request order. Knows nothing of tokens, models or transport.

Errors of single rows are a short stable code and a sentence, "code: sentence". The codes are
listed in `ROW_ERRORS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.errors import RecordError

Message = Mapping[str, Any]
"""One chat message, `{"role": ..., "content": ...}`; only the content is read."""

TEXT_COLUMNS = ("prompt", "reference", "output")
OPTIONAL_COLUMNS = ("wrapper", "id")
WRAPPERS = ("sft", "pretrain")

SCORE_SCHEMA = pa.schema(
    [
        pa.field("score", pa.float32()),
        pa.field("error", pa.string()),
        pa.field("truncated", pa.bool_()),
        pa.field("num_tokens", pa.int32()),
        pa.field("control_text", pa.bool_()),
    ]
)
"""One row per request row, in order. An `id` column stands first where the request had one.

`control_text` is true where a field spelled a control token (a reward hack, or an accident): the
text was scored as plain text.
"""

METADATA_PREFIX = "polar_ray."

ROW_ERRORS: dict[str, str] = {
    "not_an_object": "the record is not an object with prompt, reference and output",
    "missing_field": "prompt, reference or output is missing",
    "null_field": "prompt, reference or output is null",
    "bad_message": "a field is neither a string nor a list of messages with string content",
    "bad_text": "a field is not valid Unicode text",
    "bad_wrapper": "wrapper is neither sft nor pretrain",
    "field_too_large": "a field is over max_field_bytes",
    "too_long": "the encoded record is longer than the model can read",
    "nonfinite_score": "the model's score is NaN or infinite",
    "engine_error": "the engine failed on this record",
    "poison": "processes died whenever they scored this record",
}
"""Every code that a row's error can begin with."""


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


def row_error(code: str, sentence: str) -> str:
    """The text of a row's error; `code` must be one of `ROW_ERRORS`."""
    assert code in ROW_ERRORS, code
    return f"{code}: {sentence}"


@dataclass(frozen=True, slots=True)
class Unread:
    """Stands for a record that its reader left out; `error` is what its row says."""

    error: str


class _BadRow(Exception):
    """Carries a row's error text out of the parsing functions of this file."""


def to_batch(records: Iterable[Record | Mapping[str, Any]] | pa.Table) -> Batch:
    """Records, or a table of them (Arrow's, or a data frame that exports one), as a checked batch.

    Raises `RecordError` if this is no batch at all (a string, a column that does not exist). A
    single bad record is not an error of the batch: it is listed in `Batch.errors`.
    """
    if isinstance(records, pa.Table | pa.RecordBatch):
        return Batch(check_table(records))
    if hasattr(records, "__arrow_c_stream__"):
        # A data frame, whose iteration would give its columns.
        try:
            table = _without_views(pa.table(records))
        except (pa.ArrowException, TypeError, ValueError) as error:
            kind = type(records).__name__
            raise RecordError(f"{kind} does not become an Arrow table: {error}") from None
        return Batch(check_table(table))
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
        raise RecordError(
            f"a batch is a list of records or an Arrow table, not {type(records).__name__}; "
            "put a single record into a list"
        )
    rows = _Rows()
    errors: dict[int, str] = {}
    for index, record in enumerate(records):
        try:
            row = _parse(index, record)
        except _BadRow as error:
            errors[index] = str(error)
            row = {"id": _id(index, record)} if isinstance(record, Mapping) else {}
        rows.add(row)
    return Batch(rows.table(), errors)


def _without_views(table: pa.Table) -> pa.Table:
    """The views of this process's own data frames (polars has them) as plain strings."""
    kinds = [pa.string() if kind == pa.string_view() else kind for kind in table.schema.types]
    return table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))


def _parse(index: int, record: Any) -> dict[str, Any]:
    if isinstance(record, Record):
        row: Mapping[str, Any] = {name: getattr(record, name) for name in Record.__slots__}
    elif isinstance(record, Mapping):
        row = record
    elif isinstance(record, Unread):
        raise _BadRow(record.error)
    else:
        raise _BadRow(
            row_error(
                "not_an_object",
                f"got {type(record).__name__}; send an object with prompt, reference and output",
            )
        )
    unknown = [str(k) for k in row if k not in TEXT_COLUMNS and k not in OPTIONAL_COLUMNS]
    if unknown:
        raise RecordError(_unknown_columns(unknown, f"record {index}"))
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
    raise RecordError(
        f"ids must all be strings or all be integers; that of record {index} is "
        f"{type(value).__name__}"
    )


def _flatten(name: str, row: Mapping[str, Any]) -> str:
    """A field as one string: itself, or its messages' contents joined by newlines."""
    if name not in row:
        raise _BadRow(row_error("missing_field", f"{name} is missing; send a string"))
    value = row[name]
    if value is None:
        raise _BadRow(null_field(name))
    if isinstance(value, str):
        text = value
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        text = "\n".join(_content(name, at, message) for at, message in enumerate(value))
    else:
        raise _BadRow(
            row_error(
                "bad_message",
                f"{name} is {type(value).__name__}; send a string or a list of messages",
            )
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _BadRow(
            row_error("bad_text", f"{name} holds a lone surrogate at character {error.start}")
        ) from None
    return text


def _content(name: str, at: int, message: Any) -> str:
    if isinstance(message, Mapping) and isinstance(message.get("content"), str):
        return str(message["content"])
    raise _BadRow(
        row_error(
            "bad_message",
            f'message {at} of {name} has no string content; send {{"role": ..., "content": ...}}',
        )
    )


def null_field(name: str) -> str:
    """The row error of a null text field."""
    return row_error("null_field", f"{name} is null; send a string (it may be empty)")


def bad_wrapper(value: object) -> str:
    """The row error of a wrapper that POLAR does not have."""
    return row_error("bad_wrapper", f"wrapper is {value!r:.40}; use 'sft' or 'pretrain'")


def _unknown_columns(names: Sequence[str], where: str) -> str:
    known = ", ".join((*TEXT_COLUMNS, *OPTIONAL_COLUMNS))
    listed = ", ".join(repr(name[:80]) for name in sorted(names)[:5])
    return f"unknown column(s) {listed} in {where}; a record has {known}. Drop or rename them."


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
            block = _id_array(values) if name == "id" else pa.array(values, pa.string())
            self._blocks[name].append(block)
            values.clear()
        self._chars = 0


def _id_array(ids: list[Any]) -> pa.Array:
    """Strings, integers, or nothing but nulls."""
    try:
        return pa.array(ids)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
        raise RecordError(f"ids must all be strings or all be integers: {error}") from None


def _join(name: str, blocks: list[pa.Array]) -> pa.ChunkedArray:
    kinds = {block.type for block in blocks} - {pa.null()}
    if len(kinds) > 1:
        # Integers of several widths become one; text and integers are refused.
        blocks = [_id_array([i for block in blocks for i in block.to_pylist()])]
        kinds = {blocks[0].type}
    column = pa.chunked_array([block.cast(*kinds) for block in blocks])
    # A table's way makes several chunks of what does not fit into one.
    return pa.table({name: column}).combine_chunks()[name]


def check_table(table: pa.Table | pa.RecordBatch) -> pa.Table:
    """An untrusted table as a request table: known columns, plain strings, valid UTF-8, combined.

    Nulls pass (they become row errors); everything else that is wrong raises `RecordError`.
    """
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    try:
        names = table.column_names
    except UnicodeDecodeError:
        raise RecordError("a column's name is not UTF-8") from None
    unknown = [n for n in names if n not in TEXT_COLUMNS and n not in OPTIONAL_COLUMNS]
    if unknown:
        raise RecordError(_unknown_columns(unknown, "the table"))
    if missing := [name for name in TEXT_COLUMNS if name not in names]:
        raise RecordError(f"missing column(s) {', '.join(missing)}; the table has {names!r:.200}")
    if len(set(names)) != len(names):
        raise RecordError(f"duplicate columns in {names!r:.200}")
    try:
        # Arrow's readers check structure only; reading an unchecked value can crash the process.
        table.validate(full=True)
        arrays = {name: _check_column(name, table[name]) for name in names}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise RecordError(f"the Arrow table does not validate: {error}") from None
    # The table's way does not hold up other threads, however many chunks there are.
    return pa.table(arrays).combine_chunks()


def _check_column(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    # No string_view: Arrow (26) can crash on one whose null rows hold nonsense, validated or not.
    is_text = kind in (pa.string(), pa.large_string(), pa.null())
    if name == "id" and pa.types.is_integer(kind):
        return column.cast(kind)
    if not is_text:
        raise RecordError(f"column {name} is {column.type!s:.80}; it must be a string column")
    if pa.types.is_string(column.type):
        return column
    return column.cast(pa.string())


def score_table(
    scores: npt.NDArray[np.float32],
    errors: Sequence[str | None],
    *,
    truncated: Sequence[bool],
    num_tokens: Sequence[int],
    control_text: Sequence[bool],
    ids: pa.ChunkedArray | None = None,
    provenance: Mapping[str, str] | None = None,
) -> pa.Table:
    """The result table of one batch; every argument is one value per row.

    A score that is not finite becomes a `nonfinite_score` error: no NaN leaves this function.
    """
    finite = np.isfinite(scores)
    texts = [
        error
        if error is not None or ok
        else row_error("nonfinite_score", f"the model returned {value}")
        for error, ok, value in zip(errors, finite, scores, strict=True)
    ]
    unscored = np.array([text is not None for text in texts], dtype=bool)
    columns = {
        "score": pa.array(scores, pa.float32(), mask=unscored),
        "error": pa.array(texts, pa.string()),
        "truncated": pa.array(truncated, pa.bool_()),
        "num_tokens": pa.array(num_tokens, pa.int32()),
        "control_text": pa.array(control_text, pa.bool_()),
    }
    table = pa.table(columns, schema=SCORE_SCHEMA)
    if ids is not None:
        table = table.add_column(0, "id", ids)
    metadata = {f"{METADATA_PREFIX}{key}": value for key, value in (provenance or {}).items()}
    return table.replace_schema_metadata(metadata)


def empty_scores(provenance: Mapping[str, str] | None = None) -> pa.Table:
    """The result table of a batch without records."""
    none = np.empty(0, dtype=np.float32)
    return score_table(
        none, [], truncated=[], num_tokens=[], control_text=[], provenance=provenance
    )


def poisoned_scores(provenance: Mapping[str, str], num_rows: int = 1) -> pa.Table:
    """The result of records that end every process that scores them; `provenance` is that of the
    results around them."""
    sentence = "processes died whenever they scored this record; drop it"
    return score_table(
        np.full(num_rows, np.nan, np.float32),
        [row_error("poison", sentence)] * num_rows,
        truncated=[False] * num_rows,
        num_tokens=[0] * num_rows,
        control_text=[False] * num_rows,
        provenance=provenance,
    )


def with_row_errors(scores: pa.Table, errors: Mapping[int, str]) -> pa.Table:
    """The same result with the reasons of `Batch.errors` in place of the replica's own."""
    if not errors:
        return scores
    rows = sorted(errors)
    replaced = np.zeros(scores.num_rows, np.bool_)
    replaced[rows] = True
    texts = pc.replace_with_mask(
        scores["error"].combine_chunks(), replaced, pa.array([errors[i] for i in rows], pa.string())
    )
    at = scores.column_names.index("error")
    return scores.set_column(at, SCORE_SCHEMA.field("error"), texts)


def check_scores(table: pa.Table, num_rows: int) -> pa.Table:
    """`table` itself, if it keeps the contract of a result for `num_rows` rows.

    Raises `ValueError` otherwise: a result that breaks the contract is a bug of its maker.
    """
    bare = table.drop_columns(["id"]) if "id" in table.column_names else table
    if not bare.schema.equals(SCORE_SCHEMA):
        raise ValueError(f"result columns are {table.schema.names}, not {SCORE_SCHEMA.names}")
    if table.num_rows != num_rows:
        raise ValueError(f"{table.num_rows} result rows for {num_rows} records")
    scored = pc.is_valid(table["score"])
    if not pc.all(pc.xor(scored, pc.is_valid(table["error"])), min_count=0).as_py():
        raise ValueError("a result row must have either a score or an error")
    if not pc.all(pc.is_finite(table["score"]), min_count=0).as_py():
        raise ValueError("a score is not finite")
    return table


def provenance(table: pa.Table) -> dict[str, str]:
    """What scored this table (model digest, template version, engine, dtype), from its metadata."""
    pairs = ((k.decode(), v.decode()) for k, v in (table.schema.metadata or {}).items())
    return {
        key.removeprefix(METADATA_PREFIX): value
        for key, value in pairs
        if key.startswith(METADATA_PREFIX)
    }
