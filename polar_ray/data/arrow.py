"""Arrow that others have written: no value of it is touched before it has been checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from polar_ray.data.nested import rebuilt, retyped

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


def sizes_of(batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    """How many rows each has, which a file may say of one whose buffers are shorter. Touches no
    values. Raises `ValueError`."""
    for batch in batches:
        batch.validate()
        yield batch.num_rows


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
    columns = [
        rebuilt(column, field.type, _without_view)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    return retyped(kind, lambda leaf: VIEWS.get(leaf, leaf))


def _without_view(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    # A cast crashes at what stands in the place of a null: nobody has validated that.
    return pa.array(column.to_pylist(), wanted)
