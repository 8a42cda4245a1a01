"""Whether a file of a format gives columns back as they are: of the same type, with equal values.

Told by the types alone, so before the first row. Text has a list of types; of parquet and Arrow a
small file is written and read, as each version of their library has other gaps.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from polar_ray.data.json_columns import is_scalar, why_not_json
from polar_ray.data.schemas import Held, refusal
from polar_ray.errors import ConfigError

FAILURES = (pa.ArrowException, OSError, NotImplementedError, TypeError, ValueError)
"""What Arrow raises for a type that a format does not have."""


MOST_WIDTH = 1 << 20
"""A type can say that each value, null or not, has billions of items."""


def check_written(schema: pa.Schema, ending: str, files: Sequence[tuple[str, Held]] = ()) -> None:
    """Raises `ConfigError` that names a column which a file of this ending, one of
    `results.ENDINGS`, would not give back, and the first of the `files` that has it."""
    if _why_not(schema, ending) is None:
        return
    for field in schema:
        if (reason := _why_not(pa.schema([field]), ending)) is not None:
            raise refusal(field, f"which a {ending} file cannot hold ({reason})", files)
    raise ConfigError(f"a {ending} file cannot hold the columns: {_why_not(schema, ending)}")


def _why_not(schema: pa.Schema, ending: str) -> str | None:
    if ending == ".jsonl":
        reasons = (why_not_json(kind) for kind in schema.types)
        return next((reason for reason in reasons if reason is not None), None)
    if ending == ".csv":
        odd = [k for k in schema.types if not (is_scalar(k) or pa.types.is_decimal(k))]
        return f"CSV has no {odd[0]!s:.60}" if odd else None
    if (widest := max(map(_width, schema.types), default=0)) > MOST_WIDTH:
        return f"each value takes {widest:,} places"
    try:
        return _tried(ending, schema)
    except FAILURES as error:
        return f"{' '.join(str(error).split()):.120}"


def _width(kind: pa.DataType) -> int:
    """How many items or bytes even a null of a type takes."""
    if isinstance(kind, pa.BaseExtensionType):
        return _width(kind.storage_type)
    if pa.types.is_fixed_size_binary(kind):
        return int(kind.byte_width)
    inner = max((_width(kind.field(at).type) for at in range(kind.num_fields)), default=1)
    return int(kind.list_size) * inner if pa.types.is_fixed_size_list(kind) else inner


def _tried(ending: str, schema: pa.Schema) -> str | None:
    """Writes and reads a row of values and one of nulls, and none."""
    nulls = pa.Table.from_arrays([pa.nulls(1, kind) for kind in schema.types], schema=schema)
    rows = pa.Table.from_arrays([_sample(kind) for kind in schema.types], schema=schema)
    for table in (pa.concat_tables([rows, nulls]), rows.slice(0, 0)):
        file = io.BytesIO()
        with open_writer(ending, file, schema) as writer:
            writer.write_table(table)
        file.seek(0)
        if ending == ".parquet":
            found = pq.ParquetFile(file).read(use_threads=False)
        else:
            found = pa.ipc.open_file(file).read_all()
        for was, now in zip(schema, found.schema, strict=True):
            if was.type != now.type:
                return f"it would come back as {now.type!s:.60}"
        if not found.equals(table):
            return "its values would come back changed"
    return None


def _sample(kind: pa.DataType) -> pa.Array:
    """One value of a type that is not null, where one can be made."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _sample(kind.storage_type))
    if pa.types.is_struct(kind) and kind.num_fields:
        inner = [_sample(field.type) for field in kind]
        return pa.StructArray.from_arrays(inner, fields=list(kind))
    if pa.types.is_map(kind):
        ends = pa.array([0, 1], pa.int32())
        return pa.MapArray.from_arrays(ends, _sample(kind.key_type), _sample(kind.item_type), kind)
    if pa.types.is_list(kind):
        ends = pa.array([0, 1], pa.int32())
        return pa.ListArray.from_arrays(ends, _sample(kind.value_type), type=kind)
    if pa.types.is_large_list(kind):
        return pa.LargeListArray.from_arrays([0, 1], _sample(kind.value_type), type=kind)
    if pa.types.is_fixed_size_list(kind) and kind.list_size:
        values = pa.concat_arrays([_sample(kind.value_type)] * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    for of, value in EMPTY:
        if of(kind):
            return pa.array([value], kind)
    if is_scalar(kind) or any(of(kind) for of in FIXED):
        if pa.types.is_null(kind):
            return pa.nulls(1)
        return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(bytes(64))])
    return pa.nulls(1, kind)


EMPTY: tuple[tuple[Callable[[pa.DataType], bool], Any], ...] = (
    (pa.types.is_struct, {}),
    (pa.types.is_fixed_size_list, []),
    (pa.types.is_string, ""),
    (pa.types.is_large_string, ""),
    (pa.types.is_binary, b""),
    (pa.types.is_large_binary, b""),
)
FIXED = (pa.types.is_decimal, pa.types.is_duration)


def open_writer(ending: str, file: Any, schema: pa.Schema) -> Any:
    """A writer of tables to a file, by its ending."""
    if ending == ".parquet":
        return pq.ParquetWriter(file, schema)
    if ending == ".arrow":
        return pa.ipc.new_file(file, schema)
    return pcsv.CSVWriter(file, schema)
