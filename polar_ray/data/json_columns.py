"""Arrow columns as JSON: which have JSON values at all, and columns that hold JSON text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from polar_ray.data.json_values import dumps, loads
from polar_ray.data.nested import Column, rebuilt, retyped
from polar_ray.data.times import is_time, with_texts

JSON_TEXT = {b"polar_ray.json": b"1"}
"""Metadata of the field of a column that holds JSON text."""

SCALARS = (
    pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating,
    pa.types.is_string, pa.types.is_large_string, is_time,
)  # fmt: skip
"""Types of which every value is one of JSON. Dates and times are text there (`times`)."""

LISTS = (
    pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_struct,
    pa.types.is_map,
)  # fmt: skip
"""Types of lists and objects; a map is a list of pairs."""


def is_scalar(kind: pa.DataType) -> bool:
    """Whether values of a type are single values of JSON."""
    return any(of(kind) for of in SCALARS)


def why_not_json(kind: pa.DataType) -> str | None:
    """What in a type has no JSON value that says all of it; None where there is nothing."""
    if is_scalar(kind):
        return None
    if not any(of(kind) for of in LISTS):
        return f"JSON has no {kind!s:.60}"
    inner = [kind.field(at) for at in range(kind.num_fields)]
    names = [field.name for field in inner]
    if twice := [name for name in names if names.count(name) > 1]:
        return f"it has two fields {twice[0]!r:.60}"
    reasons = (why_not_json(field.type) for field in inner)
    return next((reason for reason in reasons if reason is not None), None)


def json_values(column: Column) -> list[Any]:
    """The values of a column whose type has them in JSON; of JSON text, use `from_json`."""
    column = with_texts(column)
    # Arrow (18) gives float16 as numpy's, which is no value of JSON.
    wider = retyped(column.type, lambda kind: pa.float32() if kind == pa.float16() else kind)
    values: list[Any] = rebuilt(column, wider, _floats).to_pylist()
    return values


def _floats(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    return pa.array([None if v is None else float(v) for v in column.to_pylist()], wanted)


def json_field(name: str) -> pa.Field:
    """A column of JSON text."""
    return pa.field(name, pa.string(), metadata=JSON_TEXT)


def is_json(field: pa.Field) -> bool:
    """Whether the values of a column are JSON text."""
    text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    return text and JSON_TEXT.items() <= (field.metadata or {}).items()


def to_json(values: Iterable[Any]) -> pa.Array:
    """Values as JSON text, null for None."""
    return pa.array([None if v is None else dumps(v).decode() for v in values], pa.string())


def from_json(column: Column) -> list[Any]:
    """The values of JSON text. Text that is no JSON is a value itself: not everybody who writes
    such a column has made it so."""
    return [None if text is None else _value(text) for text in column.to_pylist()]


def _value(text: str) -> Any:
    try:
        return loads(text)
    except ValueError:
        return text


def as_text(table: pa.Table) -> pa.Table:
    """For a format in which all is text: dates and times exact, and of JSON text the strings as
    they are."""
    for at, field in enumerate(table.schema):
        column = with_texts(table.column(at))
        if is_json(field):
            values = from_json(column)
            texts = [v if isinstance(v, str | None) else dumps(v).decode() for v in values]
            column = pa.array(texts, pa.string())
        table = table.set_column(at, field.name, column)
    return table
