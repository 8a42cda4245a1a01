"""The bodies of `POST /score`: JSON and Arrow IPC streams, decoded without trust.

What a body unpacks to is bounded before it is unpacked: compressed buffers, dictionaries and
columns of nothing but nulls let a few hundred bytes stand for gigabytes. Imports neither ray nor
fastapi.
"""

from __future__ import annotations

import struct
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.config import HttpConfig
from polar_ray.errors import RecordError, TooLarge
from polar_ray.records import provenance

JSON = "application/json"


def decode_json(body: bytes, limits: HttpConfig) -> list[Any]:
    """The `records` of a JSON body; single bad records pass and get errors of their own."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"the body is not JSON in UTF-8: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("records"), list):
        raise RecordError('the body must be an object {"records": [...]}')
    if extra := sorted(value.keys() - {"records"}):
        raise RecordError(f"unknown key(s) {extra!r:.200} in the body; it has only 'records'")
    records: list[Any] = value["records"]
    _check_rows(len(records), limits)
    return records


def encode_json(result: pa.Table) -> bytes:
    """A result table as the JSON of `pool.page.ResultBody`."""
    return orjson.dumps({"results": result.to_pylist(), "provenance": provenance(result)})


def decode_arrow(body: bytes, limits: HttpConfig) -> pa.Table:
    """The table of an Arrow IPC stream. Its values are not safe to read before `check_table`."""
    try:
        _check_bytes(sum(map(_unpacked_bytes, pa.ipc.MessageReader.open_stream(body))), limits)
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        _check_rows(table.num_rows, limits)
        if any(pa.types.is_dictionary(column.type) for column in table.columns):
            table.validate(full=True)
            _check_bytes(sum(map(_spelled_bytes, table.columns)), limits)
    except (pa.ArrowException, OSError, ValueError, MemoryError, KeyError, struct.error) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"the body is not an Arrow IPC stream: {error}") from None
    return table


def _check_rows(rows: int, limits: HttpConfig) -> None:
    if rows > limits.max_rows:
        raise TooLarge(f"{rows} records are over http.max_rows={limits.max_rows}; send several")


def _check_bytes(size: int, limits: HttpConfig) -> None:
    if size > limits.max_body_bytes:
        raise TooLarge(
            f"the body unpacks to {size} bytes, over http.max_body_bytes={limits.max_body_bytes}; "
            "send several batches"
        )


def _spelled_bytes(column: pa.ChunkedArray) -> int:
    """Bytes of a validated dictionary column of text without its dictionary; 0 for others."""
    text = (pa.string(), pa.large_string())
    if not pa.types.is_dictionary(column.type) or column.type.value_type not in text:
        return 0
    lengths = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(one.cast(pa.int64())).as_py() or 0 for one in lengths)


# Arrow's reader takes the size of each decompressed buffer from the sender and has no limit of its
# own, so the sizes are looked up here: https://arrow.apache.org/docs/format/Columnar.html and
# Message.fbs. The reader has verified the flatbuffer that this walks through.

_MESSAGE_HEADER, _DICTIONARY_DATA, _BATCH_BUFFERS, _BATCH_COMPRESSION = 2, 1, 2, 3


def _unpacked_bytes(message: pa.ipc.Message) -> int:
    """Bytes that the buffers of one IPC message take once they are decompressed."""
    if message.type not in ("record batch", "dictionary"):
        return 0
    if message.metadata_version != pa.ipc.MetadataVersion.V5:
        # Earlier versions announce compression in other ways.
        raise RecordError("the Arrow stream's metadata version is not V5; write it with Arrow >= 1")
    data, body = memoryview(message.metadata), memoryview(message.body)
    batch = _follow(data, _field(data, _follow(data, 0), _MESSAGE_HEADER))
    if message.type == "dictionary":
        batch = _follow(data, _field(data, batch, _DICTIONARY_DATA))
    buffers = _field(data, batch, _BATCH_BUFFERS)
    if not buffers or not _field(data, batch, _BATCH_COMPRESSION):
        return len(body)
    first = _follow(data, buffers) + 4
    (count,) = struct.unpack_from("<I", data, first - 4)
    places = struct.iter_unpack("<qq", data[first : first + 16 * count])
    # A compressed buffer begins with its size; -1 says that it was left as it is.
    sizes = (max(size, *struct.unpack_from("<q", body, at)) for at, size in places if size > 0)
    return sum(sizes)


def _field(data: memoryview, table: int, index: int) -> int:
    """Where a flatbuffer table holds its field; 0 if it has none."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable, slot = table - back, 4 + 2 * index
    (size,) = struct.unpack_from("<H", data, vtable)
    (offset,) = struct.unpack_from("<H", data, vtable + slot) if slot < size else (0,)
    return table + offset if offset else 0


def _follow(data: memoryview, at: int) -> int:
    (offset,) = struct.unpack_from("<I", data, at)
    return at + int(offset)
