"""What there is to rescore: files, how much they hold, and where their columns are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from polar_ray.config import RescoreConfig
from polar_ray.data.columns import Columns, columns_for
from polar_ray.data.formats import Unreadable, extent
from polar_ray.data.results import check_columns
from polar_ray.data.schemas import Held, check_written, together
from polar_ray.data.splits import Extent
from polar_ray.data.storage import InputFile, list_files, place
from polar_ray.errors import ConfigError, JobStopped
from polar_ray.offline.work import Problem

T = TypeVar("T")
R = TypeVar("R")
IO_THREADS = 16


@dataclass(slots=True)
class Input:
    """What there is to rescore."""

    source: str
    files: list[InputFile]
    extents: list[Extent]
    schema: pa.Schema
    columns: Columns
    skipped: list[Problem]

    @property
    def rows(self) -> int:
        """Of all files."""
        return sum(extent.rows for extent in self.extents)

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(e.file.size_bytes for e in self.extents)


def open_input(config: RescoreConfig, source: str) -> Input:
    """Reads what the files hold and finds the columns. Raises `ConfigError`, or `Unreadable` for a
    damaged file unless the config skips those."""
    files = list_files(source)
    filesystem = place(source).filesystem

    def one(file: InputFile) -> tuple[Extent, Held] | Problem:
        try:
            return extent(filesystem, file)
        except Unreadable as error:
            return Problem(file.path, str(error))

    found = in_parallel(one, files)
    skipped = [one for one in found if isinstance(one, Problem)]
    stop_unless_skipped(config, skipped)
    good = [one for one in found if not isinstance(one, Problem)]
    if not good:
        raise ConfigError(f"none of the files of {source!r} can be read: {skipped[0].reason}")
    held = [(extent.file.path, one) for extent, one in good]
    schema = together(held)
    if not len(schema):
        raise ConfigError(f"{source!r} holds no row: {len(good)} file(s), all of them empty")
    columns = columns_for(config, together(held, likely=True))
    check_columns(schema.names, config.prefix)
    for ending in (".parquet", ".arrow"):  # of parts and of shuffle files
        check_written(schema, ending)
    return Input(source, files, [one for one, _ in good], schema, columns, skipped)


def stop_unless_skipped(config: RescoreConfig, problems: Sequence[Problem]) -> None:
    """Raises `JobStopped` that names the first unreadable input, unless those are left out."""
    if problems and config.on_corrupt == "stop":
        raise JobStopped(
            f"{problems[0].reason}. Repair or remove it, or go on without it with on_corrupt=skip"
        )


def in_parallel(do: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`do` of every item, in order, many at a time: mostly waiting for storage."""
    with ThreadPoolExecutor(IO_THREADS) as threads:
        return list(threads.map(do, items))
