"""What `polar-ray score` writes of its input beside the scores: all columns, or the ids alone.
Values leave as they came."""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from polar_ray.config import ScoreConfig
from polar_ray.data.columns import field_at, find, has, look_up
from polar_ray.data.results import check_columns
from polar_ray.data.rows import Objects, Rows
from polar_ray.data.source import Chunk, Source
from polar_ray.data.written import check_written
from polar_ray.errors import ConfigError

ABSENT = object()


class Sink(Protocol):
    """Where results go."""

    @property
    def ending(self) -> str:
        """Of such files; in .jsonl, rows need not all have the same columns."""
        ...

    def write(self, table: pa.Table) -> None: ...
    def write_rows(self, rows: list[dict[str, Any]]) -> None: ...


class Kept:
    """The part of each row that is kept. What a column holds in all rows is known beforehand where
    it is written as a column; rows of JSON lines need not be alike."""

    def __init__(self, source: Source, config: ScoreConfig) -> None:
        self._source, self._config = source, config
        self._path = config.id or "id"
        self._whole: pa.Schema | None = None
        self._id: pa.Field | None = None

    @property
    def names(self) -> set[str]:
        """The columns that the ids may be in."""
        return {self._path, self._path.partition(".")[0]}

    def prepare(self, sink: Sink) -> None:
        """Raises `ConfigError` for ids that are not there, or what the sink cannot hold."""
        source, config = self._source, self._config
        if config.keep_columns:
            self._whole = source.written(sink.ending)
            return
        if sink.ending == ".jsonl" and source.is_stream:
            return
        schema = source.schema()
        there = has(schema, self._path)
        if (there and sink.ending != ".jsonl") or (not there and config.id is not None):
            schema = source.schema(whole=True)
        self.find(schema)
        if self._id is not None:
            check_written(pa.schema([self._id]), sink.ending)

    def find(self, schema: pa.Schema) -> None:
        """Looks for the ids among the columns. Raises `ConfigError` where those that somebody named
        are not there."""
        if len(schema) and (self._config.id is not None or has(schema, self._path)):
            found = field_at(schema, self._path)
            self._id = None if pa.types.is_null(found.type) else found.with_name("id")
            head = self._path if self._path in schema.names else self._path.partition(".")[0]
            self._whole = pa.schema([schema.field(head)])

    def check(self, schema: pa.Schema) -> None:
        """Raises `ConfigError` where scores would take the names of what is kept."""
        if self._config.keep_columns:
            check_columns((self._whole or schema).names, self._config.prefix)

    def columns(self, chunk: Chunk) -> pa.Table | None:
        """What is kept of some rows, in the same columns for all; None where that is nothing."""
        if self._config.keep_columns:
            return chunk.fit(self._whole).table
        if self._id is None or self._whole is None:
            self._check_none(chunk)
            return None
        if isinstance(chunk, Objects):
            [head] = self._whole.names
            values = [{head: row[head]} if head in row else {} for row in chunk.values]
            chunk = Objects(values, chunk.errors, chunk.places)
        ids = find(chunk.fit(self._whole).table, self._path)
        return pa.table([ids], schema=pa.schema([self._id]))

    def rows(self, chunk: Chunk) -> list[dict[str, Any]]:
        """What is kept of some rows, one by one."""
        if not self._config.keep_columns:
            chunk = self._ids(chunk)
        rows = chunk.to_pylist()
        check_columns({name for row in rows for name in row}, self._config.prefix)
        return rows

    def _ids(self, chunk: Chunk) -> Chunk:
        if isinstance(chunk, Objects):
            found = (look_up(row, self._path, ABSENT) for row in chunk.values)
            return Objects([{} if value is ABSENT else {"id": value} for value in found])
        if not has(chunk.schema, self._path):
            return Objects([{} for _ in range(chunk.num_rows)])
        field = field_at(chunk.schema, self._path).with_name("id")
        ids = find(chunk.table, self._path)
        return Rows(pa.table([ids], schema=pa.schema([field])), {})

    def _check_none(self, chunk: Chunk) -> None:
        """Raises `ConfigError` for ids that the first rows did not have."""
        if not isinstance(chunk, Objects):
            return  # of these, all columns are known from the beginning
        for row, place in zip(chunk.values, chunk.places, strict=True):
            if look_up(row, self._path) is not None:
                raise ConfigError(
                    f"{place} has an id, which the rows before it have not; say id={self._path} "
                    "to keep them"
                )
