"""The Arrow bodies of `POST /score`: IPC streams, decoded without trust.

What a body unpacks to is bounded before it is unpacked: compressed buffers, dictionaries and
columns of nothing but nulls let a few hundred bytes stand for gigabytes. Imports neither ray nor
fastapi.
"""

from __future__ import annotations

import struct

import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.config import HttpConfig
from polar_ray.errors import RecordError, TooLarge

MAX_SCHEMA_BYTES = 1 << 20
"""Five columns take some hundred bytes, but other programs add their own metadata."""

MAX_BATCHES = 1 << 14
"""Each takes some kilobytes and some time, be it empty."""

MAX_DICTIONARIES = 16
"""A stream's batches may repeat its dictionaries, which stand in it once, up to so many times
`max_body_bytes`: each is validated anew."""


def decode_arrow(body: bytes, limits: HttpConfig) -> pa.Table:
    """The table of an Arrow IPC stream. Its values are not safe to read before `check_table`."""
    try:
        _check_messages(body, limits)
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        _check_rows(table.num_rows, limits)
        coded = [column for column in table.columns if pa.types.is_dictionary(column.type)]
        if coded:
            _check_dictionaries(coded, limits)
            table.validate(full=True)
            _check_bytes(sum(map(_spelled_bytes, coded)), limits)
    except (pa.ArrowException, OSError, ValueError, MemoryError, KeyError, struct.error) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"the body is not an Arrow IPC stream: {error}") from None
    return table


def _check_messages(body: bytes, limits: HttpConfig) -> None:
    """Raises `TooLarge` for a stream that is much more once it is read, as soon as that shows."""
    size = 0
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(body)):
        if message.type == "schema" and message.metadata.size > MAX_SCHEMA_BYTES:
            raise TooLarge(f"the stream's schema is over {MAX_SCHEMA_BYTES} bytes")
        if number > MAX_BATCHES:
            raise TooLarge(f"the stream has over {MAX_BATCHES} batches; send fewer and larger ones")
        size += _unpacked_bytes(message)
        _check_bytes(size, limits)


def _check_dictionaries(columns: list[pa.ChunkedArray], limits: HttpConfig) -> None:
    sizes = (chunk.dictionary.get_total_buffer_size() for c in columns for chunk in c.chunks)
    if (size := sum(sizes)) > MAX_DICTIONARIES * limits.max_body_bytes:
        raise TooLarge(
            f"the stream's batches repeat dictionaries of {size} bytes; send plain strings, or "
            "fewer and larger batches"
        )


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
    return sum(pc.sum(chunk.cast(pa.int64())).as_py() or 0 for chunk in lengths)


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
