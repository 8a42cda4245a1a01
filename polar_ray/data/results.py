"""Results as they are written: a file that appears once it is whole, or JSON lines on a stream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from polar_ray.errors import ConfigError, RecordError
from polar_ray.records import SCORE_SCHEMA

ENDINGS = (".parquet", ".jsonl", ".csv", ".arrow")


class ResultWriter:
    """Writes tables to a file, which appears in place of one of its name once it is complete.

    The format is told by the ending, one of `ENDINGS`.
    """

    def __init__(self, path: str) -> None:
        if not path.endswith(ENDINGS):
            raise ConfigError(f"--output {path!r} must end in one of {', '.join(ENDINGS)}")
        self._path = Path(path)
        if not self._path.parent.is_dir():
            raise ConfigError(f"no folder {str(self._path.parent)!r} for --output")
        if self._path.is_dir():
            raise ConfigError(f"--output {path!r} is a folder; name a file")
        self._partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.partial")
        self._schema: pa.Schema | None = None
        self._columns: Any = None
        self._lines: BinaryIO | None = None

    @property
    def has_columns(self) -> bool:
        """Whether all rows must have the same columns, of one type each."""
        return self._path.suffix != ".jsonl"

    def write(self, table: pa.Table) -> None:
        """Appends a chunk's rows."""
        if not self.has_columns:
            self.write_rows(table.to_pylist())
            return
        if self._schema is None:
            self._schema = table.schema
            self._columns = _open(self._path.suffix, self._partial, table.schema)
        self._columns.write_table(_with_ids_of(self._schema, table))

    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The same of rows that need not have the same fields, for JSON lines."""
        self._lines = self._lines or self._partial.open("wb")
        write_jsonl(rows, self._lines)

    def __enter__(self) -> ResultWriter:
        try:
            self._partial.touch()  # a place that cannot be written to is found before any work
        except OSError as error:
            raise ConfigError(f"--output {str(self._path)!r}: {error.strerror}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._columns is None and self.has_columns:
            self.write(SCORE_SCHEMA.empty_table())
        for file in (self._columns, self._lines):
            if file is not None:
                file.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


def _open(kind: str, path: Path, schema: pa.Schema) -> Any:
    if kind == ".parquet":
        return pq.ParquetWriter(path, schema)
    if kind == ".arrow":
        return pa.ipc.new_file(path, schema)
    if nested := [field.name for field in schema if pa.types.is_nested(field.type)]:
        raise ConfigError(
            f"a CSV file cannot hold {', '.join(nested)[:200]}, which are lists or objects; "
            "write .jsonl or .parquet"
        )
    return pcsv.CSVWriter(path, schema)


def _with_ids_of(schema: pa.Schema, table: pa.Table) -> pa.Table:
    """A chunk's results with the id column of the chunks before it."""
    here, before = _id_type(table.schema), _id_type(schema)
    if here is None and before is not None:
        return table.add_column(0, "id", pa.nulls(table.num_rows, before))
    if here != before:
        raise RecordError(
            f"ids are {here} in some rows and {before or 'absent'} in the rows before; a column "
            "wants one kind, so repair them or write .jsonl"
        )
    return table


def _id_type(schema: pa.Schema) -> pa.DataType | None:
    return schema.field("id").type if "id" in schema.names else None


def check_columns(names: Iterable[str], prefix: str) -> None:
    """`ConfigError` where scores would take the names of columns that are there already."""
    if taken := sorted({prefix + name for name in SCORE_SCHEMA.names} & set(names)):
        raise ConfigError(
            f"the input has column(s) {', '.join(taken)} already; give the scores other names "
            "with prefix=NAME_"
        )


def with_scores(rows: pa.Table, scores: pa.Table, prefix: str) -> pa.Table:
    """Rows with the columns of their result table behind them."""
    for column in SCORE_SCHEMA.names:
        rows = rows.append_column(prefix + column, scores[column])
    return rows


def write_jsonl(rows: Iterable[Mapping[str, Any]], file: BinaryIO) -> None:
    """One JSON object per row. Raises `RecordError` for a value that JSON has no way to write."""
    for row in rows:
        try:
            line = orjson.dumps(row)
        except orjson.JSONEncodeError as error:
            raise RecordError(f"JSON lines cannot hold a row: {error}; write .parquet") from None
        file.write(line + b"\n")
