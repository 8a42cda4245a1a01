"""Files that carry their own digest: both appear at once, and neither can be without the other.

Parquet and Arrow files end in a footer that tells where everything else begins, so between that and
what stands before it is a place where no reader looks. There stands the sha256 of all other bytes,
and of what the file is: a copy under another name, or a part of another job, has the wrong one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileType

from polar_ray.data.storage import Place, write_whole
from polar_ray.errors import JobStopped

MAGICS = (b"PAR1", b"ARROW1")
"""A file ends in its footer, the footer's length in 4 bytes, and one of these."""

SEAL_BYTES = 32
CHUNK_BYTES = 1 << 22


def sealed(data: pa.Buffer, what: str, table: bytes = b"") -> bytes:
    """A parquet or Arrow file with its digest as `what`, and before it a table of the caller's."""
    view = memoryview(data)
    at = _footer(bytes(view[-10:]), len(view))
    digest = sha256(what.encode())
    for piece in (view[:at], table, view[at:]):
        digest.update(piece)
    return b"".join((view[:at], table, digest.digest(), view[at:]))


def footer(source: Any) -> int:
    """Where the footer of an open file begins; negative for no file of these kinds."""
    size = source.size()
    source.seek(max(0, size - 10))
    return _footer(source.read(10), size)


def write_sealed(where: Place, name: str, data: pa.Buffer, what: str, table: bytes = b"") -> str:
    """A file with its digest as `what`. Of two tasks that write the same one, the first has written
    it: the scores of a second forward may differ in their last digits, and nothing that was
    reported may change. Hex sha256 of what is there then."""
    whole = sealed(data, what, table)
    if not write_whole(where, name, whole, replace=False):
        if (found := digest_if_sealed(where, name, what)) is not None:
            return found
        write_whole(where, name, whole)  # what is there is none of this job's
    return sha256(whole).hexdigest()


@contextmanager
def proven(path: str) -> Iterator[None]:
    """Around what is read of a file that has just proved itself. Raises `JobStopped` where that is
    not to be read: somebody has changed it since."""
    try:
        yield
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        raise changed(path) from None


def changed(path: str) -> JobStopped:
    """The error for a file that is not as it was written."""
    return JobStopped(f"{path} was changed while the job ran; run this again")


def digest_if_sealed(where: Place, name: str, what: str) -> str | None:
    """Hex sha256 of a file; None where there is none, or not as it was sealed as `what`."""
    path = where.within(name)
    if where.filesystem.get_file_info(path).type != FileType.File:
        return None
    with where.filesystem.open_input_file(path) as source:
        size, at = source.size(), footer(source) - SEAL_BYTES
        if at < 0:
            return None
        source.seek(0)
        whole, inner = sha256(), sha256(what.encode())
        _feed(source, at, whole, inner)
        found = source.read(SEAL_BYTES)
        whole.update(found)
        _feed(source, size, whole, inner)
        return whole.hexdigest() if found == inner.digest() else None


def digest_of(source: Any) -> str:
    """Hex sha256 of an open file."""
    total = sha256()
    source.seek(0)
    _feed(source, source.size(), total)
    return total.hexdigest()


def _footer(end: bytes, size: int) -> int:
    """Where the footer of a file begins, by its last bytes; negative for no file of these kinds."""
    magic = next((magic for magic in MAGICS if end.endswith(magic)), None)
    if magic is None or size < len(magic) + 4:
        return -1
    length = int.from_bytes(end[-len(magic) - 4 : -len(magic)], "little")
    return size - len(magic) - 4 - length


def _feed(source: Any, until: int, *totals: Any) -> None:
    while (left := until - source.tell()) > 0 and (chunk := source.read(min(left, CHUNK_BYTES))):
        for total in totals:
            total.update(chunk)
