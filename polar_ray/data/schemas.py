"""The columns of several files together, and whether a file can hold them. Knows no values."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from polar_ray.data.kinds import Kinds, is_json, json_field
from polar_ray.errors import ConfigError

Held: TypeAlias = "pa.Schema | Kinds"
"""What is known of the columns of a file: of Arrow's types, or as JSON."""

FAILURES = (pa.ArrowException, OSError, NotImplementedError, TypeError, ValueError)
"""What Arrow raises for a type that a format does not have."""


def together(found: Sequence[tuple[str, Held]], *, likely: bool = False) -> pa.Schema:
    """The columns of files, each with its name: those in which every value stays as it is or, if
    `likely`, those in which a record's are to be found. Raises `ConfigError` where there is no such
    type for a column."""
    kinds = Kinds()
    for _, one in found:
        if isinstance(one, Kinds):
            kinds.merge(one)
    json = kinds.likely() if likely else kinds.schema()
    named = [(name, json if isinstance(one, Kinds) else one) for name, one in found]
    for name, schema in named:
        _check_names(name, schema)
    texts = {field.name for _, schema in named for field in schema if is_json(field)}
    schemas = [
        pa.schema([json_field(f.name) if f.name in texts else f for f in schema])
        for _, schema in named
    ]
    try:
        whole = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        names = ", ".join(name for name, _ in found[:3])
        raise ConfigError(
            f"the files differ in their columns ({names}): {error}; read them one by one"
        ) from None
    if not likely:
        _check_lossless(named, whole)
    fields = [
        f.with_type(pa.string()) if f.type == pa.null() and f.name in kinds.columns else f
        for f in whole
    ]
    return pa.schema(fields)


def _check_names(where: str, schema: pa.Schema) -> None:
    names = schema.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{where} has {len(twice)} column(s) twice, such as {twice[0]!r:.80}")


def _check_lossless(named: Sequence[tuple[str, pa.Schema]], whole: pa.Schema) -> None:
    for where, schema in named:
        for field in schema:
            kind = whole.field(field.name).type
            if not (is_json(whole.field(field.name)) or _always_fits(field.type, kind)):
                raise ConfigError(
                    f"the files differ in their columns: {field.name!r:.80} is {field.type!s:.80} "
                    f"in {where} and elsewhere of a type with which it would become {kind!s:.80}; "
                    "read them one by one"
                )


def _always_fits(kind: pa.DataType, wider: pa.DataType) -> bool:
    """Whether every value of a type is one of the wider type as well."""
    if kind == wider or pa.types.is_null(kind):
        return True
    if pa.types.is_struct(kind):
        return all(_always_fits(f.type, wider.field(f.name).type) for f in kind)
    if pa.types.is_nested(kind):
        inner = [(kind.field(i), wider.field(i)) for i in range(kind.num_fields)]
        return all(_always_fits(one.type, other.type) for one, other in inner)
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        bits = kind.bit_width
        signed = not pa.types.is_unsigned_integer(kind)
        ends = (-(1 << bits - 1) + 1, (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        numbers = pa.array(ends, getattr(pa, f"{'' if signed else 'u'}int{bits}")())
        try:
            numbers.view(kind).cast(wider)
        except pa.ArrowException:
            return False
        return True
    return any(of(kind) and of(wider) for of in WIDENED)


WIDENED = (
    pa.types.is_floating,
    pa.types.is_decimal,
    lambda kind: kind in (pa.string(), pa.large_string()),
    lambda kind: kind in (pa.binary(), pa.large_binary()),
)
"""Types of which Arrow makes only wider ones of their own."""


def check_written(schema: pa.Schema, ending: str) -> None:
    """Raises `ConfigError` that names a column which a file of this ending, one of
    `results.ENDINGS`, cannot hold so that others can read it."""
    try:
        return _try(ending, schema)
    except FAILURES as error:
        reason = error
    for field in schema:
        if (odd := _odd(ending, field)) is not None:
            way_out = "" if _odd(".parquet", field) else "write .parquet, or "
            raise ConfigError(
                f"column {field.name!r:.80} is {field.type!s:.80}, which a {ending} file cannot "
                f"hold ({' '.join(str(odd).split()):.120}); "
                f"{way_out}take it out of the input"
            )
    raise ConfigError(f"a {ending} file cannot hold the columns: {reason}")


def _odd(ending: str, field: pa.Field) -> Exception | None:
    """Why a file cannot hold a column, if it cannot."""
    try:
        _try(ending, pa.schema([field]))
    except FAILURES as error:
        return error
    return None


def _try(ending: str, schema: pa.Schema) -> None:
    """Writes and reads a row of nulls, and none."""
    if ending == ".jsonl":
        for field in schema:
            _check_json(field.type)
        return
    for rows in (1, 0):
        file = io.BytesIO()
        table = pa.table([pa.nulls(rows, field.type) for field in schema], schema=schema)
        writer = open_writer(ending, file, schema)
        writer.write_table(table)
        writer.close()
        file.seek(0)
        if ending == ".parquet":
            pq.ParquetFile(file).read(use_threads=False)
        elif ending == ".arrow":
            pa.ipc.open_file(file).read_all()


def open_writer(ending: str, file: Any, schema: pa.Schema) -> Any:
    """A writer of tables to a file, by its ending."""
    if ending == ".parquet":
        return pq.ParquetWriter(file, schema)
    if ending == ".arrow":
        return pa.ipc.new_file(file, schema)
    return pcsv.CSVWriter(file, schema)


def _check_json(kind: pa.DataType) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        for at in range(kind.num_fields):
            _check_json(kind.field(at).type)
    elif not any(of(kind) for of in JSON_TYPES):
        raise TypeError("JSON has no such values; .parquet has them")


JSON_TYPES = (
    pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating,
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_date,
    pa.types.is_timestamp, pa.types.is_time,
)  # fmt: skip
