"""Arrow that others have written: no value of it is touched before it has been checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
"""What Arrow (26) has few functions for, by what holds the same values."""


def open_arrow(source: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Of a file in Arrow's file format or, as Hugging Face's datasets write it, its stream's: its
    columns, and batches that are still to be `checked`."""
    if source.read(6) == b"ARROW1":
        file = pa.ipc.open_file(source)
        schema, batches = file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
    else:
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        schema, batches = stream.schema, iter(stream)
    return plain_schema(schema), batches


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of batches that have been `checked`. Views are plain, and so are dictionaries:
    batches may have different ones, which no file can hold as one where their indices are small."""
    fields = [field.with_type(_plain(field.type)) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def checked(batches: Iterable[pa.RecordBatch], row: int = 0) -> Iterator[pa.RecordBatch]:
    """Batches whose values can be touched. Arrow's readers check their structure only: offsets that
    run backwards crash the process, and text that is not UTF-8 fails far from here. `row` is the
    place of the first. Raises `ValueError` that names column and row."""
    for batch in batches:
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                _check_column(f"column {name!r:.80}", column, row)
            raise ValueError(str(error)) from None
        yield _plainly(batch)
        row += batch.num_rows


def _check_column(what: str, column: pa.Array, row: int) -> None:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        found = f"{what} is damaged in one of its rows {row + 1} to {row + len(column)}"
        if "UTF8" in str(error) and not pa.types.is_nested(column.type):
            for at in range(len(column)):
                if not _is_valid(column.slice(at, 1)):
                    found = f"{what} is not UTF-8 in row {row + at + 1}"
                    break
        raise ValueError(f"{found}: {error}") from None


def _is_valid(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _plainly(batch: pa.RecordBatch) -> pa.RecordBatch:
    schema = plain_schema(batch.schema)
    if schema == batch.schema:
        return batch
    columns = [_column(one, field.type) for one, field in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    if column.type == wanted:
        return column
    if _has_views(column.type):
        # A cast crashes at what stands in the place of a null: nobody has validated that.
        return pa.array(column.to_pylist(), wanted)
    return column.cast(wanted)


def _has_views(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _has_views(kind.value_type)
    return kind in VIEWS or any(_has_views(kind.field(i).type) for i in range(kind.num_fields))


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without views and dictionaries."""
    if kind in VIEWS:
        return VIEWS[kind]
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)), kind.list_size)
    for of, make in LISTS:
        if of(kind):
            return make(kind.value_field.with_type(_plain(kind.value_type)))
    return kind


LISTS = (
    (pa.types.is_list, pa.list_),
    (pa.types.is_large_list, pa.large_list),
    (pa.types.is_list_view, pa.list_),
    (pa.types.is_large_list_view, pa.large_list),
)
