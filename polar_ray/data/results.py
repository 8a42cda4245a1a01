"""Results as they are written: a file that appears once it is whole, or JSON lines on a stream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa

from polar_ray.data.columns import listed
from polar_ray.data.json_columns import as_text
from polar_ray.data.json_values import dumps
from polar_ray.data.storage import PARTIAL
from polar_ray.data.written import check_written, open_writer
from polar_ray.errors import ConfigError, PolarRayError, RecordError
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
        check_place(self._path, "--output")
        self._partial = _beside(self._path)
        self._schema: pa.Schema | None = None
        self._columns: Any = None
        self._lines: BinaryIO | None = None

        self.ending = self._path.suffix
        """One of `ENDINGS`."""

    def write(self, table: pa.Table) -> None:
        """Appends a chunk's rows. Raises `PolarRayError` where the place does not take them."""
        if self.ending == ".jsonl":
            self.write_rows(table.to_pylist())
            return
        if self.ending == ".csv":
            table = as_text(table)
        if self._schema is None:
            check_written(table.schema, self.ending)
        with writing_to(str(self._path)):
            if self._schema is None:
                self._schema = table.schema
                self._columns = open_writer(self.ending, self._partial, table.schema)
            self._columns.write_table(table)

    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The same of rows that need not have the same fields, for JSON lines."""
        with writing_to(str(self._path)):
            self._lines = self._lines or self._partial.open("wb")
            write_jsonl(rows, self._lines)

    def __enter__(self) -> ResultWriter:
        with writing_to(str(self._path)):
            self._partial.touch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
            else:  # what fails now says nothing new
                with suppress(OSError, pa.ArrowException):
                    self._close()
        finally:
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._columns is None and self._lines is None:
            self.write(SCORE_SCHEMA.empty_table())
        with writing_to(str(self._path)):
            self._close()
            self._partial.replace(self._path)

    def _close(self) -> None:
        for file in (self._columns, self._lines):
            if file is not None:
                file.close()


def check_place(path: Path, option: str) -> None:
    """Raises `ConfigError` where no file can be written, before there is anything to write."""
    if not path.parent.is_dir():
        raise ConfigError(f"no folder {str(path.parent)!r} for {option}")
    if path.is_dir():
        raise ConfigError(f"{option} {str(path)!r} is a folder; name a file")
    if path.exists() and not path.is_file():
        return  # a pipe or a device, which has nothing beside it
    probe = _beside(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"{option} {str(path)!r}: {error.strerror}") from None


@contextmanager
def writing_to(place: str) -> Iterator[None]:
    """What the system says of a place that takes no more, such as a full disk, as an error that
    names it."""
    try:
        yield
    except BrokenPipeError:  # its reader has enough, which is no failure
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise PolarRayError(f"{place} cannot be written: {reason}") from None


def _beside(path: Path) -> Path:
    """Where a file is written until it is whole."""
    return path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")


def check_columns(names: Iterable[str], prefix: str) -> None:
    """`ConfigError` where scores would take the names of columns that are there already."""
    if taken := sorted({prefix + name for name in SCORE_SCHEMA.names} & set(names)):
        raise ConfigError(
            f"the input has column(s) {listed(taken)} already; give the scores other names "
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
            line = dumps(row)
        except (TypeError, ValueError) as error:
            raise RecordError(f"JSON lines cannot hold a row: {error}; write .parquet") from None
        file.write(line + b"\n")
