"""Tables as bytes: Arrow IPC streams, and the digest that travels with them over HTTP.

Owns the bytes that leave a process. Arrow has no checksum of its own: a stream with a flipped bit
often reads as another text. Whether a stranger's stream may be read at all is
`pool.http.arrow_body`'s.
"""

from __future__ import annotations

import base64
import hashlib

import pyarrow as pa

from polar_ray.errors import RecordError

ARROW_STREAM = "application/vnd.apache.arrow.stream"
"""The media type; see https://www.iana.org/assignments/media-types."""

CONTENT_DIGEST = "content-digest"
"""The header; see RFC 9530."""

_ALGORITHM = "sha-256"


def encode_arrow(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def read_arrow(body: bytes) -> pa.Table:
    """The table of an Arrow IPC stream from a process of this project; the bytes are not copied."""
    with pa.ipc.open_stream(body) as reader:
        return reader.read_all()


def digest(body: bytes) -> str:
    """What `CONTENT_DIGEST` says of a body."""
    return f"{_ALGORITHM}=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def check_digest(header: str | None, body: bytes) -> None:
    """Raises `RecordError` if the header names another body. Other algorithms are not looked at."""
    named = {item.strip() for item in (header or "").split(",")}
    named = {item for item in named if item.startswith(f"{_ALGORITHM}=")}
    # The body is read once, however often the header says so.
    if named and named != {digest(body)}:
        raise RecordError(f"the body is not what its {CONTENT_DIGEST} says; send it again")
