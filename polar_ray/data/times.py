"""Dates and times as exact text, of whatever unit and however far away.

ISO 8601 with all digits of the unit: `2026-01-02T03:04:05.000000006`. With a zone it is the same
instant in UTC, as Arrow holds it: `...+00:00`. Years of more than four digits have a sign.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import pyarrow as pa

from polar_ray.data.nested import Column, rebuilt, retyped

DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
CYCLE_DAYS = 146_097
"""Of 400 years, after which the calendar begins anew."""

EPOCH = date(1970, 1, 1).toordinal() - 1
DAY_S = 86_400


def is_time(kind: pa.DataType) -> bool:
    """Whether values of a type have a text here."""
    return bool(pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind))


def with_texts(column: Column) -> Column:
    """A column with its dates and times as text, those within lists and structs, too."""
    wanted = retyped(column.type, lambda kind: pa.string() if is_time(kind) else kind)
    return rebuilt(column, wanted, _texts)


def _texts(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    text = _text_of(array.type)
    values = array.view(pa.int32() if array.type.bit_width == 32 else pa.int64()).to_pylist()
    return pa.array([None if value is None else text(value) for value in values], wanted)


def _text_of(kind: pa.DataType) -> Callable[[int], str]:
    if pa.types.is_date32(kind):
        return _date
    unit = "ms" if pa.types.is_date64(kind) else kind.unit
    digits = DIGITS[unit]
    if pa.types.is_time(kind):
        return lambda value: _clock(value, digits)
    zone = "+00:00" if pa.types.is_timestamp(kind) and kind.tz is not None else ""

    def moment(value: int) -> str:
        days, rest = divmod(value, DAY_S * 10**digits)
        if pa.types.is_date64(kind) and not rest:
            return _date(days)
        return f"{_date(days)}T{_clock(rest, digits)}{zone}"

    return moment


def _date(days: int) -> str:
    cycles, day = divmod(days + EPOCH, CYCLE_DAYS)
    found = date.fromordinal(day + 1)
    year = found.year + 400 * cycles
    shown = f"{year:04}" if 0 <= year <= 9999 else f"{year:+05}"
    return f"{shown}-{found.month:02}-{found.day:02}"


def _clock(value: int, digits: int) -> str:
    seconds, rest = divmod(value, 10**digits)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    fraction = f".{rest:0{digits}}" if digits else ""
    return f"{hour:02}:{minute:02}:{second:02}{fraction}"
