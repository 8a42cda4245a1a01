"""Lines of a text file, plain or compressed, by ranges of its (unpacked) bytes.

Memory is bounded by the range that is asked for and the longest line, whatever an archive unpacks
to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from polar_ray.data.json_text import LINE_BYTES
from polar_ray.data.storage import compression
from polar_ray.data.stream import check_utf8

BLOCK_BYTES = 4 << 20
CHUNK_BYTES = 1 << 16
EMPTY = re.compile(rb"\n*")


def all_lines(filesystem: Any, path: str) -> Iterator[tuple[int, bytes]]:
    """Every line that is not empty, and where it begins."""
    at, rest = 0, b""
    with _open(filesystem, path) as source:
        check_utf8(head := source.read(CHUNK_BYTES))
        while head:
            rest += head
            end = rest.rfind(b"\n") + 1
            _check(len(rest) - end)
            yield from _within(rest, at, end)
            at, rest = at + end, rest[end:]
            head = source.read(max(BLOCK_BYTES, len(rest)))
    yield from _within(rest, at, len(rest))


class Lines:
    """The lines of one file. Ranges that are asked for in order are read once; going back costs a
    compressed file its beginning again."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self.path = path
        self._filesystem = filesystem
        self._source = _open(filesystem, path)
        self._asked = 0
        """End of the last range. No line begins between there and `_begin`."""

        self._begin = 0
        """Where the first line begins that was not given."""

        self._rest = b""
        """What was read from there on."""

    def read(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """The lines that begin at the bytes `start` up to `stop`, without empty ones, and where
        each begins."""
        if start < self._asked:
            self._reopen()
        self._asked = stop
        if start > self._begin:
            self._skip_to(start)
        if self._begin >= stop:
            return iter(())
        first = self._begin
        data, end = self._take(stop - first)
        return _within(data, first, end)

    def close(self) -> None:
        """Lets go of the file."""
        self._source.close()

    def _reopen(self) -> None:
        self._source.close()
        self._source = _open(self._filesystem, self.path)
        self._asked, self._begin, self._rest = 0, 0, b""

    def _skip_to(self, start: int) -> None:
        """To the first line that begins at `start` or later; what began earlier is another's."""
        # The byte before tells whether a line begins here.
        end = self._rest.find(b"\n", start - 1 - self._begin)
        if end >= 0:
            self._begin += end + 1
            self._rest = self._rest[end + 1 :]
            return
        at = self._begin + len(self._rest)
        if at < start - 1:
            self._forward(start - 1 - at)
            at = start - 1
        self._rest = b""
        while chunk := self._source.read(CHUNK_BYTES):
            end = chunk.find(b"\n")
            if end >= 0:
                self._begin = at + end + 1
                self._rest = chunk[end + 1 :]
                return
            at += len(chunk)
        self._begin = at

    def _forward(self, size: int) -> None:
        if compression(self.path) is None:
            self._source.seek(self._source.tell() + size)
            return
        while size > 0 and (chunk := self._source.read(min(size, BLOCK_BYTES))):
            size -= len(chunk)

    def _take(self, size: int) -> tuple[bytes, int]:
        """So many bytes from the beginning of a line, with the rest of the last line; and where
        that ends."""
        parts = [self._rest] if self._rest else []
        missing = size - len(self._rest)
        while missing > 0 and (chunk := self._source.read(missing)):
            parts.append(chunk)
            missing -= len(chunk)
        data = b"".join(parts)
        end = data.find(b"\n", size - 1) + 1
        if not end:
            parts, held = [data], len(data)
            line = held - data.rfind(b"\n") - 1
            while not end and (chunk := self._source.read(CHUNK_BYTES)):
                parts.append(chunk)
                found = chunk.find(b"\n")
                line += len(chunk) if found < 0 else found
                _check(line)
                end = held + found + 1 if found >= 0 else 0
                held += len(chunk)
            data = b"".join(parts)
            end = end or len(data)
        self._begin += end
        self._rest = data[end:]
        return data, end


def _open(filesystem: Any, path: str) -> Any:
    kind = compression(path)
    if kind is None:
        return filesystem.open_input_file(path)
    return filesystem.open_input_stream(path, compression=kind)


def _within(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The lines of some bytes up to `end`, without empty ones; the first byte stands at `at`."""
    begin = 0
    while begin < end:
        stop = data.find(b"\n", begin, end)
        stop = end if stop < 0 else stop
        line = data[begin:stop]
        if line and not line.isspace():
            yield at + begin, line
        begin = stop + 1
        if not line:
            begin = EMPTY.match(data, begin, end).end()  # type: ignore[union-attr]


def _check(line_bytes: int) -> None:
    if line_bytes > LINE_BYTES:
        raise ValueError(f"a line is longer than {LINE_BYTES >> 20} MiB")
