"""Rows of parquet and CSV files, from the beginning or, in parquet, from a row group on."""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from polar_ray.data.arrow import checked
from polar_ray.data.quotes import Quotes
from polar_ray.data.rows import BOM, Rows
from polar_ray.data.stream import HEAD_BYTES, Stream
from polar_ray.records import row_error

BATCH_ROWS = 1024
CSV_BLOCK_BYTES = 16 << 20
"""A longer row of a CSV file is refused."""

DELIMITERS = (",", ";", "\t")
QUOTED = re.compile(r'"[^"]*"')
LINE_END = re.compile(rb"[\r\n]")


def open_parquet(source: Any, row: int = 0) -> tuple[list[int], int, Iterator[pa.RecordBatch]]:
    """First rows of all row groups, that of the group which holds `row`, and rows from there on."""
    file = pq.ParquetFile(source)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    first = max((i for i, at in enumerate(starts) if at <= row), default=0)
    batches = chain.from_iterable(  # no batch crosses a border: one may be damaged
        file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group])
        for group in range(first, len(sizes))
    )
    begin = starts[first] if starts else 0
    return starts, begin, checked(batches, begin)


def csv_schema(stream: Stream) -> tuple[pa.Schema, str]:
    """The columns that the header row names, all of them text, and the delimiter, the one
    that stands in it most often. Leaves the stream where it is."""
    head = stream.text_head(enough=b"\n")
    if len(head) >= HEAD_BYTES and not LINE_END.search(head):
        raise ValueError(f"its header row is longer than {HEAD_BYTES >> 10} KiB")
    text = head.removeprefix(BOM).decode(errors="replace")
    bare = QUOTED.sub("", text).strip().partition("\n")[0]
    delimiter = max(DELIMITERS, key=bare.count)  # of equals, the first
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = next((row for row in rows if row), [])
    if not names:
        raise ValueError("it has no header row that names its columns")
    if twice := sorted({column for column in names if names.count(column) > 1}):
        raise ValueError(f"its header names {', '.join(twice)[:80]!r} twice")
    return pa.schema([(column, pa.string()) for column in names]), delimiter


def csv_rows(stream: Stream, name: str) -> Iterator[Rows]:
    """Rows of a CSV file with a header, as text. An empty field without quotes is null, as most
    who write CSV mean it. A row with too few or too many fields is null and has its reason."""
    schema, delimiter = csv_schema(stream)
    if not LINE_END.search(stream.head(enough=b"\n")):
        return  # Arrow refuses a header alone
    bad: dict[int, str] = {}
    whole = io.BufferedReader(stream)  # gives whole blocks, however little a pipe has at once
    quotes = Quotes(delimiter)
    over = Event()

    def on_bad(row: Any) -> str:
        found = f"row {row.number} of {name} has {row.actual_columns} field(s)"
        sentence = f"{found}, its header {row.expected_columns}"
        bad[row.number - 2] = row_error("not_an_object", sentence)  # the header is row 1
        return "skip"

    def read(size: int) -> bytes:
        if over.is_set():
            return b""
        data = whole.read(size - 1)
        if data.endswith(b"\r"):  # Arrow drops a \n that begins a block behind it
            data += whole.read(1)
        quotes.check(data)
        return data

    reader = pcsv.open_csv(
        Stream(read),
        read_options=pcsv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),
        parse_options=pcsv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=on_bad
        ),
        convert_options=pcsv.ConvertOptions(
            column_types={column: pa.binary() for column in schema.names},
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )
    at = 0
    try:
        for batch in reader:
            table, errors = _with_bad(pa.Table.from_batches([batch]), at, bad)
            yield _as_text(table, errors, at, name)
            at += table.num_rows
    finally:
        # Arrow reads ahead in a thread of its own. A reader that is dropped while it does can wait
        # for itself, and the process then never ends.
        over.set()
        with suppress(Exception):  # whatever it still says, nobody asks
            deque(reader, maxlen=0)
    quotes.check(b"")  # Arrow drops what `read` raises where it has all rows before that
    if bad:  # rows behind the last good one
        yield Rows(*_with_bad(schema.empty_table(), at, bad, last=True))


def _with_bad(
    table: pa.Table, at: int, bad: dict[int, str], *, last: bool = False
) -> tuple[pa.Table, dict[int, str]]:
    """A table with null rows where rows were bad, and their reasons, which leave `bad`. `at` is the
    table's place in the file, and places in `bad` are the file's; those behind the table's own
    rows come with it where it is the `last`."""
    mine: list[int] = []
    for place in sorted(bad):
        good_before = place - at - len(mine)
        if good_before >= table.num_rows and not last:
            break
        mine.append(place - at)
    if not mine:
        return table, {}
    good = np.ones(table.num_rows + len(mine), np.bool_)
    good[mine] = False
    sources = pa.array(np.cumsum(good) - 1, mask=~good)
    return table.take(sources), {place: bad.pop(at + place) for place in mine}


def _as_text(table: pa.Table, errors: dict[int, str], at: int, name: str) -> Rows:
    """Columns of bytes as text; a value that is not UTF-8 is null and its row has the reason."""
    columns = []
    for column in table.columns:
        try:
            columns.append(column.cast(pa.string()))
        except pa.ArrowInvalid:
            values = [_decoded(value) for value in column.to_pylist()]
            for index in (i for i, value in enumerate(values) if isinstance(value, bytes)):
                sentence = f"row {at + index + 2} of {name} is not UTF-8"
                errors.setdefault(index, row_error("bad_text", sentence))
            texts = [None if isinstance(value, bytes) else value for value in values]
            columns.append(pa.array(texts, pa.string()))
    return Rows(pa.table(columns, names=table.column_names), errors)


def _decoded(value: bytes | None) -> str | bytes | None:
    """Text; what is none stays bytes."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value
