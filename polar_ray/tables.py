"""Request tables: what a table of records must be before anything reads it.

`check_table` stands where a table enters this project's trust, in `records.to_batch`, and nowhere
behind it: in a process at `Scorer.score`, in a pool at the router.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from polar_ray.errors import RecordError

TEXT_COLUMNS = ("prompt", "reference", "output")
OPTIONAL_COLUMNS = ("wrapper", "id")
WRAPPERS = ("sft", "pretrain")

WHOLE = "whole"
"""Stands in `wrapper` where a client has run POLAR's template by itself: `prompt` is empty,
`reference` and `output` are the two whole trajectories, already cut, and are not cut again. Tables
have it, made by `records.Trajectories`; nobody writes it into a record."""


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
    if extra := extra_columns(names):
        raise RecordError(unknown_columns(extra, "the table"))
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


def without_views(table: pa.Table) -> pa.Table:
    """The views of this process's own data frames (polars has them) as plain strings."""
    kinds = [pa.string() if kind == pa.string_view() else kind for kind in table.schema.types]
    return table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))


def extra_columns(names: Iterable[object]) -> list[str]:
    """Those that no record has."""
    return [str(n) for n in names if n not in TEXT_COLUMNS and n not in OPTIONAL_COLUMNS]


def unknown_columns(names: Sequence[str], where: str) -> str:
    known = ", ".join((*TEXT_COLUMNS, *OPTIONAL_COLUMNS))
    listed = ", ".join(repr(name[:80]) for name in sorted(names)[:5])
    return f"unknown column(s) {listed} in {where}; a record has {known}; drop or rename them"
