"""The JSON bodies of `POST /score`, decoded without trust.

A body becomes a table record by record, so that its objects never exist all at once: see
`pool.http.json_scan`. Imports neither ray nor fastapi.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from polar_ray.config import HttpConfig
from polar_ray.errors import RecordError, TooLarge
from polar_ray.pool.http.json_scan import Layout, Offsets, TooMany, scan
from polar_ray.records import TEXT_COLUMNS, Batch, Unread, provenance, row_error, to_batch

JSON = "application/json"

SLICE_BYTES = 1 << 18
SLICE_MARKS = 1 << 14
"""JSON is decoded by so much at once, or else one record: what it becomes takes up to forty times
as much, other threads wait meanwhile, and more objects set off a full garbage collection."""

MAX_MARKS = 1 << 17
"""Commas, colons and brackets of one record: twenty thousand messages."""

MAX_BYTES_AROUND = 1 << 20
"""What a body may hold beside its records, to be told what is wrong with it."""

ESCAPED = 6
"""Bytes of JSON for one of text, at most (`\\u0000`)."""

IN_ADDRESS = ("timeout_s", "priority")
"""What a call has beside its body."""

ROWS_AT_ONCE = 1024
"""Results are encoded by so many rows at once, for the same reasons."""


def decode_json(body: bytes, limits: HttpConfig, max_field_bytes: int) -> Batch:
    """The records of a JSON body; single bad ones are errors of their own rows.

    A record larger than fields of `max_field_bytes` make it, or of too many values, is not decoded.
    """
    try:
        layout = scan(body, limits.max_rows)
    except TooMany:
        message = f"the body has over http.max_rows={limits.max_rows} records; send several"
        raise TooLarge(message) from None
    _check_around(body, layout)
    assert layout is not None  # or there was something wrong around it
    max_bytes = ESCAPED * len(TEXT_COLUMNS) * max_field_bytes + SLICE_BYTES
    return to_batch(_records(body, layout, max_bytes))


def encode_json(result: pa.Table) -> bytes:
    """A result table as the JSON of `pool.http.openapi.ResultBody`."""
    parts = (result.slice(at, ROWS_AT_ONCE) for at in range(0, result.num_rows, ROWS_AT_ONCE))
    rows = b",".join(orjson.dumps(part.to_pylist())[1:-1] for part in parts)
    return b'{"results":[%b],"provenance":%b}' % (rows, orjson.dumps(provenance(result)))


def _check_around(body: bytes, layout: Layout | None) -> None:
    """Raises `RecordError` if what is not within the records is not `{"records": [...]}`."""
    around = body
    if layout is not None:
        around = body[: layout.begins[0]] + body[layout.ends[-1] :]
    shape = 'the body must be an object {"records": [...]}'
    if len(around) > MAX_BYTES_AROUND:
        raise RecordError(f"{shape}; this does not end, nests too deeply or has more in it")
    value = _loads(around, "the body")
    if not isinstance(value, dict) or not isinstance(value.get("records"), list):
        raise RecordError(shape)
    if extra := sorted(value.keys() - {"records"}):
        place = "".join(
            f"; {name} goes into the address: POST /score?{name}={value[name]!s:.20}"
            for name in IN_ADDRESS
            if name in extra
        )
        raise RecordError(
            f"unknown key(s) {extra!r:.200} in the body; it has only 'records'{place}"
        )
    if layout is None or layout.keys > 1:
        raise RecordError(f"{shape}; this has 'records' more than once")


def _records(body: bytes, layout: Layout, max_bytes: int) -> Iterator[Any]:
    """The records, decoded as they are asked for."""
    begins, ends = layout.begins, layout.ends
    if len(begins) == 1 and not body[begins[0] : ends[0]].strip():
        return
    sizes, marks = ends - begins, np.cumsum(layout.marks)
    at = 0
    for left_out in [*np.flatnonzero((sizes > max_bytes) | (layout.marks > MAX_MARKS)), len(ends)]:
        while at < left_out:
            end = _slice_end(ends, marks, at, left_out)
            yield from _decode(body[begins[at] : ends[end - 1]], at, end)
            at = end
        if left_out < len(ends):
            yield Unread(_too_large(int(sizes[at]), int(layout.marks[at]), max_bytes))
            at += 1


def _slice_end(ends: Offsets, marks: Offsets, at: int, most: int) -> int:
    """The first record that is not decoded together with record `at`; both count from the start."""
    by_size = np.searchsorted(ends, ends[at] + SLICE_BYTES)
    by_marks = np.searchsorted(marks, marks[at] + SLICE_MARKS)
    return min(max(at + 1, int(min(by_size, by_marks))), most)


def _decode(records: bytes, at: int, end: int) -> list[Any]:
    found: list[Any] = _loads(b"[%b]" % records, f"record {at}, or a later one,")
    if len(found) != end - at:
        raise RecordError(f"the body is not JSON: there is nothing between two commas at {at}")
    return found


def _loads(text: bytes, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"{what} is not JSON in UTF-8: {error}") from None


def _too_large(size: int, marks: int, max_bytes: int) -> str:
    if size > max_bytes:
        return row_error("field_too_large", f"the record has {size} bytes, over {max_bytes}")
    return row_error("bad_message", f"the record has {marks} values or more; join its messages")
