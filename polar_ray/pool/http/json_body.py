"""The JSON bodies of `POST /score`, decoded without trust.

A body becomes a table record by record, so that its objects never exist all at once: see
`pool.http.json_scan`. Imports neither ray nor fastapi.
"""

from __future__ import annotations

import orjson
import pyarrow as pa

from polar_ray.config import HttpConfig
from polar_ray.errors import RecordError, TooLarge
from polar_ray.pool.http.json_items import decode_items, largest_item, loads
from polar_ray.pool.http.json_scan import Layout, TooMany, scan
from polar_ray.records import Batch, provenance, to_batch

JSON = "application/json"

MAX_BYTES_AROUND = 1 << 20
"""What a body may hold beside its records, to be told what is wrong with it."""

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
    return to_batch(decode_items(body, layout, largest_item(max_field_bytes)))


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
    value = loads(around, "the body")
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
