"""Files of records and of results: jsonl and parquet, by their ending.

Extra columns of an input are left out and named, so that any rollout file can be scored; rows keep
their number and order.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.errors import ConfigError, RecordError
from polar_ray.records import OPTIONAL_COLUMNS, SCORE_SCHEMA, TEXT_COLUMNS

COLUMNS = (*TEXT_COLUMNS, *OPTIONAL_COLUMNS)
STDIN = "-"


class Chunk(NamedTuple):
    """Some rows of a file, ready for `Scorer.score`, and the columns that were left out of them."""

    records: list[Any] | pa.Table
    ignored: frozenset[str]

    @property
    def num_rows(self) -> int:
        """Input rows in this chunk."""
        return len(self.records)


def read_chunks(path: str, *, rows: int = 1024) -> Iterator[Chunk]:
    """A jsonl or parquet file, or jsonl from stdin ("-"), a chunk of rows at a time.

    Raises `ConfigError` if there is no such file and `RecordError` if it is not what it says.
    """
    if path == STDIN:
        return _read_jsonl(sys.stdin.buffer, rows)
    if not Path(path).is_file():
        raise ConfigError(f"no file {path!r}")
    if path.endswith(".parquet"):
        return _read_parquet(path, rows)
    if path.endswith((".jsonl", ".json", ".ndjson")):
        return _read_jsonl_file(path, rows)
    raise ConfigError(f"{path!r} ends in neither .jsonl nor .parquet")


def check_apart(source: str, output: str) -> None:
    """Raises `ConfigError` if results would take the place of the records that they are of."""
    if source != STDIN and Path(output).exists() and Path(output).samefile(source):
        raise ConfigError(f"--output {output!r} is the input file; write the results to another")


def _read_jsonl_file(path: str, rows: int) -> Iterator[Chunk]:
    with Path(path).open("rb") as file:
        yield from _read_jsonl(file, rows)


def _read_jsonl(lines: Iterable[bytes], rows: int) -> Iterator[Chunk]:
    records: list[Any] = []
    ignored: set[str] = set()
    for line in lines:
        if not line.strip():
            continue
        records.append(_parse_line(line, ignored))
        if len(records) == rows:
            yield Chunk(records, frozenset(ignored))
            records, ignored = [], set()
    if records:
        yield Chunk(records, frozenset(ignored))


def _parse_line(line: bytes, ignored: set[str]) -> Any:
    """One record. A line that is not JSON stays a string, which becomes an error of its row."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line.decode(errors="replace")
    if not isinstance(record, dict):
        return record
    ignored.update(record.keys() - set(COLUMNS))
    return {name: value for name, value in record.items() if name in COLUMNS}


def _read_parquet(path: str, rows: int) -> Iterator[Chunk]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            ignored = frozenset(names) - set(COLUMNS)
            wanted = [name for name in names if name in COLUMNS]
            for batch in file.iter_batches(batch_size=rows, columns=wanted):
                yield Chunk(_rows(pa.Table.from_batches([batch])), ignored)
    except (pa.ArrowException, OSError) as error:
        raise RecordError(f"{path} cannot be read as parquet: {error}") from None


def _rows(table: pa.Table) -> list[Any] | pa.Table:
    """Plain text columns stay a table; lists of messages are flattened as records."""
    nested = any(pa.types.is_nested(table[name].type) for name in table.column_names)
    return table.to_pylist() if nested else table


class ResultWriter:
    """Writes result tables to a .parquet or .jsonl file, which appears once it is complete."""

    def __init__(self, path: str) -> None:
        if not path.endswith((".parquet", ".jsonl")):
            raise ConfigError(f"--output {path!r} must end in .parquet or .jsonl")
        self._path = Path(path)
        if not self._path.parent.is_dir():
            raise ConfigError(f"no folder {str(self._path.parent)!r} for --output")
        self._partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.partial")
        self._parquet: pq.ParquetWriter | None = None
        self._lines: BinaryIO | None = None

    def write(self, table: pa.Table) -> None:
        """Appends a chunk's results."""
        if self._path.suffix == ".jsonl":
            self._lines = self._lines or self._partial.open("wb")
            write_jsonl(table, self._lines)
            return
        self._parquet = self._parquet or pq.ParquetWriter(self._partial, table.schema)
        self._parquet.write_table(_with_ids_of(self._parquet.schema, table))

    def __enter__(self) -> ResultWriter:
        self._partial.touch()  # a place that cannot be written to is found before any work
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._parquet is None and self._lines is None and kind is None:
            self.write(SCORE_SCHEMA.empty_table())
        for file in (self._parquet, self._lines):
            if file is not None:
                file.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


def _with_ids_of(schema: pa.Schema, table: pa.Table) -> pa.Table:
    """A chunk's results with the id column of the chunks before it."""
    here, before = _id_type(table.schema), _id_type(schema)
    if here is None and before is not None:
        return table.add_column(0, "id", pa.nulls(table.num_rows, before))
    if here != before:
        raise RecordError(
            f"ids are {here} in some rows and {before or 'absent'} in the rows before; parquet "
            "wants one kind, so repair them or write .jsonl"
        )
    return table


def _id_type(schema: pa.Schema) -> pa.DataType | None:
    return schema.field("id").type if "id" in schema.names else None


def write_jsonl(table: pa.Table, file: BinaryIO) -> None:
    """One JSON object per result row."""
    for row in table.to_pylist():
        file.write(orjson.dumps(row) + b"\n")
