"""Files by their format: what one holds, and the rows of a split of it.

Raises `Unreadable`, which names the file, for what is not what its name says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.arrow import checked, open_arrow, plain_schema, sizes_of
from polar_ray.data.csv_text import csv_rows, csv_schema
from polar_ray.data.json_text import CHUNK_BYTES, objects
from polar_ray.data.kinds import Kinds
from polar_ray.data.lines import Lines, all_lines
from polar_ray.data.parquet import group_sizes, open_parquet
from polar_ray.data.rows import BATCH_ROWS, Objects, Rows, Unreadable, concat
from polar_ray.data.schemas import Held
from polar_ray.data.splits import Extent, Split
from polar_ray.data.storage import InputFile, compression
from polar_ray.data.stream import open_file

__all__ = ["Held", "Reader", "Rows", "Unreadable", "extent", "held", "unreadable"]


SAMPLE_ROWS = 8192
MOST_ROWS = 1 << 30
"""A file may say that it has any number; nothing is done for each before that is looked at."""

FAILURES = (pa.ArrowException, OSError, ValueError)
"""What libraries raise for files that are not what they seem."""


def extent(
    filesystem: Any, file: InputFile, seen: Callable[[int], None] = lambda size_bytes: None
) -> tuple[Extent, Held]:
    """How much a file holds, and in which columns. JSON and CSV are read for that to their end;
    `seen` hears meanwhile of the bytes that were read of jsonl that is not compressed."""
    held, found = _look(filesystem, file, whole=True, count=True, seen=seen)
    return found, held


def held(filesystem: Any, file: InputFile, *, whole: bool = False, name: str = "") -> Held:
    """The columns of a file, with what it says of itself; those of JSON from its first rows, or
    from the `whole`. `name`: what people call it, if not by its path."""
    return _look(filesystem, file, whole=whole, count=False, name=name)[0]


def _look(
    filesystem: Any,
    file: InputFile,
    *,
    whole: bool,
    count: bool,
    seen: Callable[[int], None] = lambda size_bytes: None,
    name: str = "",
) -> tuple[Held, Extent]:
    """A file's columns and how much it holds, which is 0 unless there is to be a `count`."""
    rows = 0
    try:
        if file.format == "parquet":
            with filesystem.open_input_file(file.path) as source:
                parquet = pq.ParquetFile(source)
                rows = sum(group_sizes(parquet.metadata)) if count else 0
                return plain_schema(parquet.schema_arrow), _bounded(Extent(file, rows))
        if file.format == "arrow":
            with open_mapped(filesystem, file.path) as source:
                schema, batches = open_arrow(source)
                rows = sum(sizes_of(batches)) if count else 0
                return schema, _bounded(Extent(file, rows))
        if file.format == "csv":
            stream, raw = open_file(filesystem, file)
            with raw:
                schema = csv_schema(stream)[0]
            if count:
                rows = sum(part.num_rows for part in _from_stream(filesystem, file))
            return schema, Extent(file, rows)
        if whole:
            return _read_json(filesystem, file, seen)
        first = next(_from_stream(filesystem, file, SAMPLE_ROWS), Objects())
        return Kinds(first.values if isinstance(first, Objects) else ()), Extent(file, 0)
    except FAILURES as error:
        raise unreadable(name or file.path, error) from None


def _read_json(
    filesystem: Any, file: InputFile, seen: Callable[[int], None]
) -> tuple[Kinds, Extent]:
    """Reads all rows: only so is it known what holds every value as it is."""
    plain = compression(file.path) is None
    rows = length = taken = 0
    kinds, chunk = Kinds(), Objects()
    if file.format == "json":
        for part in _from_stream(filesystem, file):
            rows += part.num_rows
            kinds.add(part.to_pylist())
        return kinds, _unless_rowless(kinds, Extent(file, rows))
    for at, line in all_lines(filesystem, file.path):
        chunk.add(line, "")
        rows, length = rows + 1, at + len(line)
        if chunk.num_rows == BATCH_ROWS or length - taken > CHUNK_BYTES:
            kinds.add(chunk.values)
            seen(plain * (length - taken))
            chunk, taken = Objects(), length
    kinds.add(chunk.values)
    return kinds, _unless_rowless(kinds, Extent(file, length, rows))


def _bounded(found: Extent) -> Extent:
    if found.rows > MOST_ROWS:
        raise ValueError(
            f"it says that it holds {found.rows:,} rows; at most {MOST_ROWS:,} are read of one file"
        )
    return found


def _unless_rowless(kinds: Kinds, found: Extent) -> Extent:
    if found.rows and not kinds.columns:
        raise ValueError("no row of it is a JSON object with a field")
    return found


def unreadable(what: str, error: Exception) -> Unreadable:
    """The error for a file, or part of one, that some library cannot read."""
    if isinstance(error, Unreadable):
        return error
    reason = " ".join(str(error).split())  # Arrow's take several lines
    return Unreadable(f"{what} cannot be read: {reason:.200}".rstrip("."))


def open_mapped(filesystem: Any, path: str) -> Any:
    """An Arrow file. Mapped where possible: then counting rows reads no row."""
    if filesystem.type_name == "local":
        return pa.memory_map(path)
    return filesystem.open_input_file(path)


def _from_stream(
    filesystem: Any, file: InputFile, size: int = BATCH_ROWS
) -> Iterator[Rows | Objects]:
    """The rows of a text format."""
    stream, raw = open_file(filesystem, file)
    with raw:
        if file.format == "csv":
            yield from csv_rows(stream, file.path)
        else:
            yield from objects(stream, file.path, repeat(size), lines=file.format == "jsonl")


class Reader:
    """The rows of splits, one at a time. Goes on where it stopped, so that a large row group that
    several splits share is decoded once and not from its beginning for each."""

    def __init__(self, filesystem: Any, schema: pa.Schema) -> None:
        self._filesystem = filesystem
        self._schema = schema
        self._path: str | None = None
        self._at = 0
        self._rest: Iterator[Rows | Objects] = iter(())
        self._held: Rows | None = None
        self._groups: list[int] = []
        """First row of each row group of the open file."""

        self._source: Any = None
        self._lines: Lines | None = None

    def read(self, split: Split) -> Rows:
        """All rows of a split in the columns of the whole dataset."""
        try:
            if split.format == "jsonl":
                return self._range_of_lines(split.path, split.start, split.stop)
            return self._range(split)
        except FAILURES as error:
            self.close()
            if isinstance(error, FileNotFoundError | PermissionError):
                raise
            raise unreadable(str(split), error) from None

    def close(self) -> None:
        """Lets go of the open file."""
        if self._source is not None:
            self._source.close()
        if self._lines is not None:
            self._lines.close()
        self._source, self._path, self._held, self._lines = None, None, None, None
        self._rest = iter(())

    def _range_of_lines(self, path: str, start: int, stop: int) -> Rows:
        if self._lines is None or self._lines.path != path:
            self.close()
            self._lines = Lines(self._filesystem, path)
        found = Objects()
        for at, line in self._lines.read(start, stop):
            found.add(line, f"the line at byte {at} of {path}")
        return found.fit(self._schema)

    def _range(self, split: Split) -> Rows:
        ahead = [first for first in self._groups if self._at < first <= split.start]
        if self._path != split.path or self._at > split.start or ahead:
            self._open(split.path, split.format, split.start)
        parts: list[Rows] = []
        while self._at < split.stop:
            rows = self._next()
            skip = max(0, min(split.start - self._at, rows.num_rows))
            take = min(rows.num_rows, split.stop - self._at)
            if take > skip:
                parts.append(rows.part(skip, take))
            if take < rows.num_rows:
                self._held = rows.part(take, rows.num_rows)
            self._at += take
        return concat(parts, self._schema)

    def _next(self) -> Rows:
        if self._held is not None:
            held, self._held = self._held, None
            return held
        rows = next(self._rest, None)
        if rows is None:
            raise ValueError(f"it ends after {self._at} rows")
        return rows.fit(self._schema)

    def _open(self, path: str, kind: str, row: int) -> None:
        self.close()
        self._at, self._groups = 0, []
        if kind in ("parquet", "arrow"):
            if kind == "arrow":
                self._source = open_mapped(self._filesystem, path)
                batches = checked(open_arrow(self._source)[1])
            else:
                self._source = self._filesystem.open_input_file(path)
                self._groups, self._at, batches = open_parquet(self._source, row)
            self._rest = (Rows(pa.Table.from_batches([batch]), {}) for batch in batches)
        else:
            self._rest = _from_stream(self._filesystem, InputFile(path, 0, "", kind))
        self._path = path
