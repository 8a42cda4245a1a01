"""Reading: what a file holds, and the rows of a split, from parquet, Arrow and jsonl.

Raises `Unreadable`, which names the file, for what is not what its name says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.lines import Lines, measure
from polar_ray.data.splits import Extent, Split
from polar_ray.data.storage import InputFile
from polar_ray.records import row_error

BATCH_ROWS = 1024


class Unreadable(Exception):
    """An input file that is damaged or not what its name says; never leaves this package."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the input, and why some of them could not be read, by their place."""

    table: pa.Table
    errors: dict[int, str]
    left_out: frozenset[str] = frozenset()
    """Fields of jsonl lines that the sample did not have, and so the output has not."""

    def part(self, start: int, stop: int) -> Rows:
        """The rows `start` up to `stop` alone."""
        errors = {i - start: reason for i, reason in self.errors.items() if start <= i < stop}
        return Rows(self.table.slice(start, stop - start), errors, self.left_out)


def extent(filesystem: Any, file: InputFile) -> tuple[Extent, pa.Schema]:
    """How much a file holds, and of which columns."""
    try:
        if file.format == "parquet":
            with filesystem.open_input_file(file.path) as source:
                parquet = pq.ParquetFile(source)
                return Extent(file, parquet.metadata.num_rows), _bare(parquet.schema_arrow)
        if file.format == "arrow":
            with _open_arrow(filesystem, file.path) as source:
                schema, batches = _arrow_batches(source)
                return Extent(file, sum(batch.num_rows for batch in batches)), _bare(schema)
        size, head = measure(filesystem, file)
        lines = [line for line in head.splitlines() if line.strip()]
        return Extent(file, size, len(head) // max(1, len(lines)) or 1), _infer(lines)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(file.path, error) from None


def _bare(schema: pa.Schema) -> pa.Schema:
    """Without metadata, which differs between files that are alike (pandas puts an index there)."""
    return pa.schema([pa.field(f.name, f.type) for f in schema])


def _infer(lines: Iterable[bytes]) -> pa.Schema:
    rows = [row for row in map(_parse, lines) if isinstance(row, dict)]
    if not rows:
        raise ValueError("no line of its beginning is a JSON object")
    names = dict.fromkeys(name for row in rows for name in row)
    # from_pylist takes its columns from the first row alone.
    kinds = {name: _kind([row.get(name) for row in rows]) for name in names}
    return pa.schema(list(kinds.items()))


def _kind(values: list[Any]) -> pa.DataType:
    """The type of a column; where values are of several kinds, that of most of them."""
    try:
        kind = pa.infer_type(values)
    except pa.ArrowException:
        most = Counter(map(type, (v for v in values if v is not None))).most_common(1)[0][0]
        kind = pa.infer_type([value for value in values if type(value) is most])
    return pa.string() if pa.types.is_null(kind) else kind


def _parse(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


class Reader:
    """The rows of splits, one at a time. Goes on where it stopped, so that a large row group that
    several splits share is decoded once and not from its beginning for each."""

    def __init__(self, filesystem: Any, schema: pa.Schema) -> None:
        self._filesystem = filesystem
        self._schema = schema
        self._path: str | None = None
        self._at = 0
        self._rest: Iterator[pa.RecordBatch] = iter(())
        self._held: pa.RecordBatch | None = None
        self._groups: list[int] = []
        """First row of each row group of the open file."""

        self._source: Any = None
        self._lines: Lines | None = None

    def read(self, split: Split) -> Rows:
        """All rows of a split in the columns of the whole dataset."""
        try:
            if split.format == "jsonl":
                if self._lines is None or self._lines.path != split.path:
                    self.close()
                    self._lines = Lines(self._filesystem, split.path)
                lines = list(self._lines.read(split.start, split.stop))
                return rows_of(lines, self._schema, split.path)
            table = self._range(split)
            return Rows(_with_columns(table, self._schema), {})
        except (pa.ArrowException, OSError, ValueError) as error:
            self.close()
            if isinstance(error, FileNotFoundError | PermissionError):
                raise
            raise _unreadable(str(split), error) from None

    def close(self) -> None:
        """Lets go of the open file."""
        if self._source is not None:
            self._source.close()
        if self._lines is not None:
            self._lines.close()
        self._source, self._path, self._held, self._lines = None, None, None, None

    def _range(self, split: Split) -> pa.Table:
        ahead = [first for first in self._groups if self._at < first <= split.start]
        if self._path != split.path or self._at > split.start or ahead:
            self._open(split.path, split.format, split.start)
        parts: list[pa.RecordBatch] = []
        while self._at < split.stop:
            batch = self._held if self._held is not None else next(self._rest, None)
            self._held = None
            if batch is None:
                raise ValueError(f"it ends after {self._at} rows")
            skip = max(0, min(split.start - self._at, batch.num_rows))
            take = min(batch.num_rows, split.stop - self._at)
            if take > skip:
                parts.append(batch.slice(skip, take - skip))
            if take < batch.num_rows:
                self._held = batch.slice(take)
            self._at += take
        return pa.Table.from_batches(parts)

    def _open(self, path: str, kind: str, row: int) -> None:
        self.close()
        if kind == "arrow":
            self._source = _open_arrow(self._filesystem, path)
            _, self._rest = _arrow_batches(self._source)
            self._at, self._groups = 0, []
        else:
            self._source = self._filesystem.open_input_file(path)
            file = pq.ParquetFile(self._source)
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            self._groups = [sum(sizes[:i]) for i in range(len(sizes))]
            first = max((i for i, at in enumerate(self._groups) if at <= row), default=0)
            self._at = self._groups[first]
            groups = list(range(first, len(sizes)))
            self._rest = file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups)
        self._path = path


def rows_of(lines: list[bytes], schema: pa.Schema, path: str) -> Rows:
    """Parsed jsonl lines. One that is no object, or does not fit the columns, is a row of nulls."""
    parsed = [_parse(line) for line in lines]
    names = set(schema.names)
    errors: dict[int, str] = {}
    left_out: set[str] = set()
    for index, row in enumerate(parsed):
        if isinstance(row, dict):
            left_out |= row.keys() - names
        else:
            errors[index] = row_error("not_an_object", f"a line of {path} is no JSON object")
            parsed[index] = {}
    try:
        table = pa.Table.from_pylist(parsed, schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # Somewhere a value is of another kind than in the sample; find the rows one by one.
        for index, row in enumerate(parsed):
            try:
                pa.Table.from_pylist([row], schema)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                sentence = f"a line of {path} does not fit the columns: {error!s:.120}"
                errors[index] = row_error("not_an_object", sentence)
                parsed[index] = {}
        table = pa.Table.from_pylist(parsed, schema)
    return Rows(table, errors, frozenset(left_out))


def _open_arrow(filesystem: Any, path: str) -> Any:
    # Mapped where possible: then counting rows reads no row.
    if filesystem.type_name == "local":
        return pa.memory_map(path)
    return filesystem.open_input_file(path)


def _arrow_batches(source: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Of a file in Arrow's file format or, as Hugging Face's datasets write it, its stream's."""
    if source.read(6) == b"ARROW1":
        file = pa.ipc.open_file(source)
        return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
    source.seek(0)
    stream = pa.ipc.open_stream(source)
    return stream.schema, iter(stream)


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """In the dataset's columns; those that this file lacks are null."""
    columns = [
        table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


def _unreadable(what: str, error: Exception) -> Unreadable:
    reason = " ".join(str(error).split())  # Arrow's take several lines
    return Unreadable(f"{what} cannot be read: {reason:.200}")
