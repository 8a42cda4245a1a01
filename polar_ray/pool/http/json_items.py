"""The items of JSON arrays, decoded a few at a time.

What a body becomes would otherwise exist all at once: see `pool.http.json_scan`. Imports neither
ray nor fastapi.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, NoReturn

import numpy as np
import orjson

from polar_ray.errors import RecordError
from polar_ray.pool.http.json_scan import Layout, Offsets
from polar_ray.records import TEXT_COLUMNS, Unread, row_error

SLICE_BYTES = 1 << 18
SLICE_MARKS = 1 << 14
"""JSON is decoded by so much at once, or else one record: what it becomes takes up to forty times
as much, other threads wait meanwhile, and more objects set off a full garbage collection."""

MAX_MARKS = 1 << 17
"""Commas, colons and brackets of one record: twenty thousand messages."""

ESCAPED = 6
"""Bytes of JSON for one of text, at most (`\\u0000`)."""

INTEGER_DIGITS = 19
"""Of 64 bits."""


def largest_item(max_field_bytes: int) -> int:
    """Bytes of JSON that the fields of one record may take, when each has `max_field_bytes`."""
    return ESCAPED * len(TEXT_COLUMNS) * max_field_bytes + SLICE_BYTES


def decode_items(body: bytes, layout: Layout, max_bytes: int) -> Iterator[Any]:
    """The items of an array, decoded as they are asked for; `Unread` for one of more bytes, or of
    more than `MAX_MARKS` values."""
    begins, ends = layout.begins, layout.ends
    if len(begins) == 1 and not body[begins[0] : ends[0]].strip():
        return
    sizes, marks = ends - begins, np.cumsum(layout.marks)
    at = 0
    for left_out in [*np.flatnonzero((sizes > max_bytes) | (layout.marks > MAX_MARKS)), len(ends)]:
        while at < left_out:
            end = _slice_end(ends, marks, at, left_out)
            yield from _decode(body, layout, at, end)
            at = end
        if left_out < len(ends):
            yield Unread(_too_large(int(sizes[at]), int(layout.marks[at]), max_bytes))
            at += 1


def _slice_end(ends: Offsets, marks: Offsets, at: int, most: int) -> int:
    """The first record that is not decoded together with record `at`; both count from the start."""
    by_size = np.searchsorted(ends, ends[at] + SLICE_BYTES)
    by_marks = np.searchsorted(marks, marks[at] + SLICE_MARKS)
    return min(max(at + 1, int(min(by_size, by_marks))), most)


def _decode(body: bytes, layout: Layout, at: int, end: int) -> list[Any]:
    """Items `at` to `end`: together, or one by one to find the one that is amiss."""
    begins, ends = layout.begins, layout.ends
    try:
        found: list[Any] = orjson.loads(b"[%b]" % body[begins[at] : ends[end - 1]])
    except orjson.JSONDecodeError:
        found = [_decode_alone(body[begins[i] : ends[i]], i) for i in range(at, end)]
    if len(found) != end - at:
        raise RecordError(f"the body is not JSON: there is nothing between two commas at {at}")
    marks = layout.marks[at:end].tolist()
    return [_unless_repeated(item, its) for item, its in zip(found, marks, strict=True)]


def _unless_repeated(item: Any, marks: int) -> Any:
    """The item, `Unread` where an object of it has a key twice: decoders keep the last, and leave
    out the marks of the others."""
    if isinstance(item, dict | list) and _count_marks(item) != marks:
        return Unread(row_error("repeated_key", "an object in the record has a key twice"))
    return item


def _count_marks(item: Any) -> int:
    """The commas, colons and brackets that a value has in JSON."""
    count = 0
    todo = [item]
    while todo:  # no recursion: it may lie deep
        value = todo.pop()
        inner: Collection[Any]
        if isinstance(value, dict):
            inner, marks = value.values(), 2
        elif isinstance(value, list):
            inner, marks = value, 1
        else:
            continue
        # Beside its two brackets, a colon for each key and a comma before all but the first.
        count += 2 + marks * len(inner) - bool(inner)
        todo += inner
    return count


def _decode_alone(item: bytes, at: int) -> Any:
    """One item. What JSON can write and orjson does not hold (half a surrogate pair, a number out
    of range) is as Python holds it, so that what reads the record says what is wrong with it."""
    try:
        return orjson.loads(item)
    except orjson.JSONDecodeError as error:
        try:
            return _PYTHONS.decode(item.decode())
        except (ValueError, RecursionError):
            raise RecordError(f"record {at} is not JSON in UTF-8: {error}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _whole(digits: str) -> int | float:
    # As orjson has them; of more than 4,300 digits Python would refuse to make an integer.
    return int(digits) if len(digits) <= INTEGER_DIGITS else float(digits)


_PYTHONS = json.JSONDecoder(parse_constant=_refuse, parse_int=_whole)


def loads(text: bytes, what: str) -> Any:
    """What JSON says; `RecordError` that names `what` where it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"{what} is not JSON in UTF-8: {error}") from None


def _too_large(size: int, marks: int, max_bytes: int) -> str:
    if size > max_bytes:
        return row_error("field_too_large", f"the record has {size} bytes, over {max_bytes}")
    return row_error("bad_message", f"the record has {marks} values or more; join its messages")
