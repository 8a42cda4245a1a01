"""Bytes that are read once, from the beginning: of a file, of a pipe, unpacked on the way."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import orjson
import pyarrow as pa

from polar_ray.data.rows import BOM
from polar_ray.data.storage import FORMATS, InputFile, compression
from polar_ray.errors import ConfigError

STDIN = "-"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
HEAD_BYTES = 1 << 16
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
"""How packed bytes begin, by Arrow's names."""

BEGINNINGS = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}


class Stream(io.RawIOBase):
    """Bytes from a `read` that gives at most so many, whose beginning can be looked at."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._held = b""

    def head(self, size: int = HEAD_BYTES, enough: bytes = b"") -> bytes:
        """What comes next: `size` bytes, or less where `enough` is within, or nothing follows."""
        while len(self._held) < size and not (enough and enough in self._held):
            more = self._read(size - len(self._held))
            if not more:
                break
            self._held += more
        return self._held

    def text_head(self, size: int = HEAD_BYTES, enough: bytes = b"") -> bytes:
        """`head` of text. Raises `ValueError` for UTF-16."""
        return check_utf8(self.head(size, enough))

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`."""
        data = self._held[: len(buffer)] or self._read(len(buffer))
        self._held = self._held[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def check_utf8(head: bytes) -> bytes:
    """The beginning of a text; `ValueError` where it is UTF-16."""
    # Without a mark, every other byte of ASCII is zero.
    if head.startswith(UTF16) or (head[:2].count(0) == 1 and len(head) > 1):
        raise ValueError("this is no text in UTF-8 but UTF-16; save it as UTF-8")
    return head


def open_file(filesystem: Any, file: InputFile) -> tuple[Stream, Any]:
    """A file's bytes unpacked, and the file itself, which tells how far that is."""
    raw = filesystem.open_input_file(file.path)
    kind = compression(file.path)
    unpacked = raw if kind is None else pa.CompressedInputStream(raw, kind)
    return Stream(unpacked.read), raw


def is_pipe(uri: str) -> bool:
    """Whether it can only be read once: stdin, a named pipe, a shell's `<(command)`."""
    return uri == STDIN or Path(uri).is_fifo()


def open_pipe(uri: str) -> Stream:
    """A pipe, unpacked where it is packed."""
    # read1 gives what a pipe has, and does not wait until all that was asked for is there.
    file = sys.stdin.buffer if uri == STDIN else open(uri, "rb")  # noqa: SIM115
    stream = Stream(cast(io.BufferedReader, file).read1)
    start = stream.head(4, enough=b"\n")
    for magic, kind in PACKED.items():
        if start.startswith(magic):
            return Stream(pa.CompressedInputStream(pa.PythonFile(stream, "r"), kind).read)
    return stream


def format_of(stream: Stream) -> str:
    """The format of a stream without a name, by its first line."""
    line = stream.head(enough=b"\n").removeprefix(BOM).partition(b"\n")[0]
    for beginning, kind in BEGINNINGS.items():
        if line.startswith(beginning):
            return kind
    if line.lstrip().startswith(b"["):
        return "json"
    if line.lstrip().startswith(b"{") or not any(sign in line for sign in b",;\t"):
        return "jsonl"
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return "csv"
    return "jsonl"


def check_format(name: str | None) -> str | None:
    """A format that somebody named; `ConfigError` for one that is none."""
    known = dict.fromkeys(FORMATS.values())
    if name is not None and name not in known:
        raise ConfigError(f"format {name!r} is not known; there are {', '.join(known)}")
    return name


def lines_of(stream: Stream, most_bytes: int) -> Iterator[bytes]:
    """Lines with their ends. Raises `ValueError` for one that is longer than `most_bytes`."""
    with io.BufferedReader(stream, HEAD_BYTES) as source:
        while line := source.readline(most_bytes + 1):
            if len(line) > most_bytes:
                raise ValueError(f"a line is longer than {most_bytes >> 20} MiB")
            yield line
