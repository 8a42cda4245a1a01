"""Rows from JSON read from its beginning: lines, or one array of objects."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator

import orjson

from polar_ray.data.rows import BOM, Objects
from polar_ray.data.stream import Stream, lines_of

LINE_BYTES = 64 << 20
"""A file with a longer line, or a longer object in its array, is refused: it is no list of
records."""

CHUNK_BYTES = 8 << 20
"""Of JSON, that become one chunk of rows at most, and one row more."""

PIECE_BYTES = 1 << 20
BLANK = re.compile(r"[ \t\r\n]*")
SCANNER = json.JSONDecoder(parse_int=str, parse_float=str)
"""Finds where a value ends; what it holds is read as a jsonl line is, by orjson."""


def objects(stream: Stream, name: str, sizes: Iterator[int], *, lines: bool) -> Iterator[Objects]:
    """Chunks of as many rows as `sizes` says, or less where they are long. `lines` False: an array
    where the first byte says so. Raises `ValueError`."""
    chunk, size, held = Objects(), next(sizes), 0
    array = (
        stream.text_head(enough=b"\n" if lines else b"").removeprefix(BOM).lstrip().startswith(b"[")
        and not lines
    )
    items = _array(stream, name) if array else _lines(stream, name, jsonl=lines)
    for text, where in items:
        chunk.add(text, where)
        held += len(text)
        if chunk.num_rows >= size or held >= CHUNK_BYTES:
            yield chunk
            chunk, size, held = Objects(), next(sizes), 0
    if chunk.num_rows:
        yield chunk


def _lines(stream: Stream, name: str, *, jsonl: bool) -> Iterator[tuple[bytes, str]]:
    checked = jsonl
    for number, line in enumerate(lines_of(stream, LINE_BYTES), start=1):
        if line.isspace():
            continue
        if not checked and _holds_the_rows(line.removeprefix(BOM)):
            raise ValueError(
                "it is one object around the rows; give the list itself, or one JSON object a line"
            )
        checked = True
        yield line, f"line {number} of {name}"


def _holds_the_rows(line: bytes) -> bool:
    """Whether the first line is no row: an object with a list of objects under its only key, or
    the beginning of an object that goes on over more lines."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line.lstrip().startswith(b"{") and line.rstrip().endswith((b"{", b"["))
    inner = list(value.values()) if isinstance(value, dict) else []
    return len(inner) == 1 and isinstance(inner[0], list) and isinstance([*inner[0], 0][0], dict)


def _array(stream: Stream, name: str) -> Iterator[tuple[str, str]]:
    """The items of an array as they stand there. A comma behind the last is no error."""
    text, number = _Text(stream), 0
    text.skip()
    while text.next_char() != "]":
        number += 1
        yield text.value(number), f"item {number} of {name}"
        if text.next_char() == ",":
            text.skip()
        elif text.next_char() not in ("]", ""):
            raise ValueError(f"neither a comma nor ] stands behind item {number}")
    text.skip()
    if text.next_char():
        raise ValueError("something stands behind the array")


class _Text:
    """The text of a stream, of which so much is held as the next value takes."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False

    def next_char(self) -> str:
        """The next character that is not blank; none at the end."""
        while True:
            self._at = BLANK.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Past the next character that is not blank."""
        self.next_char()
        self._at += 1

    def value(self, number: int) -> str:
        """The text of the value that comes next, the array's item `number`."""
        while True:
            try:
                _, end = SCANNER.raw_decode(self._text, self._at)
            except (json.JSONDecodeError, RecursionError) as error:
                if len(self._text) - self._at > LINE_BYTES or not self._more():
                    reason = getattr(error, "msg", error)  # its place is that in a buffer
                    raise ValueError(f"its item {number} is cut off or no JSON: {reason}") from None
                continue
            if end < len(self._text) or not self._more():  # else a number may go on
                found, self._at = self._text[self._at : end], end
                return found

    def _more(self) -> bool:
        """Reads about as much again as is held; False at the end."""
        if self._ended:
            return False
        self._text, self._at = self._text[self._at :], 0
        data = self._stream.read(max(PIECE_BYTES, len(self._text))) or b""
        self._ended = not data
        self._text += self._decoder.decode(data, self._ended)
        return True
