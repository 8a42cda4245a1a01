"""Rows of CSV from its beginning, with the line of the file in which each begins.

As RFC 4180 has it, and strict: a quote opens a field where it comes first in it, and elsewhere in a
field without quotes it is text. A field whose quotes do not fit together makes the file unreadable,
as all that follows might be one field. Libraries' readers do not fit: Arrow's lets a stray quote
swallow rows and knows no lines, Python's does not tell an empty text from none.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

import pyarrow as pa

from polar_ray.data.json_text import CHUNK_BYTES, LINE_BYTES
from polar_ray.data.rows import BATCH_ROWS, BOM, Rows
from polar_ray.data.storage import is_utf8
from polar_ray.data.stream import HEAD_BYTES, Stream
from polar_ray.records import row_error

BLOCK_BYTES = 1 << 20
ROW_BYTES = LINE_BYTES
"""A longer row is refused; most often one of its quotes is not closed."""

DELIMITERS = (",", ";", "\t")
QUOTED = re.compile(r'"[^"]*"')
LINE_END = re.compile(rb"\r\n|\n|\r")

Fields = list[bytes | None]


def csv_schema(stream: Stream) -> tuple[pa.Schema, str]:
    """The columns that the header row names, all of them text, and the delimiter, the one
    that stands in it most often. Leaves the stream where it is."""
    head = stream.text_head(enough=b"\n")
    if len(head) >= HEAD_BYTES and not LINE_END.search(head):
        raise ValueError(f"its header row is longer than {HEAD_BYTES >> 10} KiB")
    text = head.removeprefix(BOM).decode(errors="surrogateescape")
    bare = QUOTED.sub("", text).strip().partition("\n")[0]
    delimiter = max(DELIMITERS, key=bare.count)  # of equals, the first
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = next((row for row in rows if row), [])
    if not names:
        raise ValueError("it has no header row that names its columns")
    for column in names:
        if not is_utf8(column):
            raise ValueError(f"its header names a column {column[:80]!r}, which is not UTF-8")
    if twice := sorted({column for column in names if names.count(column) > 1}):
        raise ValueError(f"its header names {', '.join(twice)[:80]!r} twice")
    return pa.schema([(column, pa.string()) for column in names]), delimiter


def csv_rows(stream: Stream, name: str) -> Iterator[Rows]:
    """Rows of a CSV file with a header, as text. An empty field without quotes is null, as most
    who write CSV mean it, and a blank line is no row. A row with too few or too many fields, or
    with one that is not UTF-8, is null there and has its reason."""
    schema, delimiter = csv_schema(stream)
    records = _records(stream, delimiter.encode())
    next(records, None)  # the header
    rows: list[Fields] = []
    errors: dict[int, str] = {}
    lines: list[int] = []
    size = 0
    for line, fields in records:
        if len(fields) != len(schema):
            sentence = f"line {line} of {name} has {len(fields)} field(s), its header {len(schema)}"
            errors[len(rows)] = row_error("not_an_object", sentence)
            fields = [None] * len(schema)
        rows.append(fields)
        lines.append(line)
        size += sum(len(field) for field in fields if field is not None)
        if len(rows) == BATCH_ROWS or size >= CHUNK_BYTES:
            yield _as_text(rows, schema, errors, lines, name)
            rows, errors, lines, size = [], {}, [], 0
    if rows:
        yield _as_text(rows, schema, errors, lines, name)


def _records(stream: Stream, delimiter: bytes) -> Iterator[tuple[int, Fields]]:
    """The fields of each row and the line in which it begins."""
    edge = re.escape(delimiter) + rb"\r\n"
    quoted = rb'"([^"]*(?:""[^"]*)*)"'
    plain = rb'([^"%b][^%b]*)?' % (edge, edge)
    field = re.compile(rb"(?:%b|%b)(%b|\r\n|\n|\r|\Z)" % (quoted, plain, re.escape(delimiter)))
    goes_on = re.compile(rb'%b[^"%b]' % (quoted, edge))
    text, at, ended = b"", 0, False
    fields: Fields = []
    line = begins = 1
    size = 0
    while True:
        found = field.match(text, at)
        if found is None or (found.end() == len(text) and not ended):
            if goes_on.match(text, at):
                raise _wrong(line, "goes on behind the quote that closes it")
            if found is None and (ended or len(text) - at > ROW_BYTES):
                raise _wrong(line, "does not end")
            if len(text) - at > ROW_BYTES:
                raise _too_long(begins)
            text, at = text[at:], 0
            more = stream.read(max(BLOCK_BYTES, len(text))) or b""
            text += more
            text = text.removeprefix(BOM) if line == 1 and not fields else text
            ended = not more
            continue
        within, bare, end = found.groups()
        size += found.end() - at
        if size > ROW_BYTES:
            raise _too_long(begins)
        at = found.end()
        fields.append(bare if within is None else within.replace(b'""', b'"'))
        if within:
            ends = len(LINE_END.findall(within)) if b"\r" in within else within.count(b"\n")
            line += ends
        if end != delimiter:
            if fields != [None]:
                yield begins, fields
            if not end:
                return
            fields, size = [], 0
            line = begins = line + 1


def _too_long(line: int) -> ValueError:
    return ValueError(f"the row in its line {line} is longer than {ROW_BYTES >> 20} MiB")


def _wrong(line: int, what: str) -> ValueError:
    return ValueError(
        f"the quoted field that begins in its line {line} {what}; within quotes, a quote is "
        'written twice ("")'
    )


def _as_text(
    rows: list[Fields], schema: pa.Schema, errors: dict[int, str], lines: list[int], name: str
) -> Rows:
    columns = []
    for values in zip(*rows, strict=True):
        texts = []
        for index, value in enumerate(values):
            try:
                texts.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                sentence = f"line {lines[index]} of {name} is not UTF-8"
                errors.setdefault(index, row_error("bad_text", sentence))
                texts.append(None)
        columns.append(pa.array(texts, pa.string()))
    return Rows(pa.table(columns, schema=schema), errors)
