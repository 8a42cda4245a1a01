"""What there is to rescore: files, how much they hold, and where their columns are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

import pyarrow as pa

from polar_ray.config import RescoreConfig
from polar_ray.data.columns import Columns, columns_for
from polar_ray.data.formats import Unreadable, extent
from polar_ray.data.results import check_columns
from polar_ray.data.schemas import Held, check_written, together
from polar_ray.data.splits import Extent
from polar_ray.data.storage import InputFile, list_files, place
from polar_ray.errors import ConfigError, JobStopped
from polar_ray.offline.conservation import Problem

T = TypeVar("T")
R = TypeVar("R")
IO_THREADS = 16

BLOCKS, BLOCK_BYTES = 16, 1 << 14
"""Of each local file, that are looked at to see whether it is the same."""


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


def contents(source: str, files: Sequence[InputFile]) -> dict[str, list[Any]]:
    """What each file is, by its path: its size, when it was modified, and what its blocks hold."""
    local = place(source).filesystem.type_name == "local"

    def one(file: InputFile) -> list[Any]:
        return [*file.version, content_digest(file.path) if local else ""]

    return dict(zip((file.path for file in files), in_parallel(one, files), strict=True))


def content_digest(path: str) -> str:
    """Hex sha256 of a file's first and last block and of others evenly between; of all of it up to
    256 KiB. Empty where it may not be read.

    A change between the blocks that leaves size and time as they were is not seen.
    """
    total = sha256()
    try:
        with open(path, "rb") as file:
            last = max(0, os.fstat(file.fileno()).st_size - BLOCK_BYTES)
            for number in range(BLOCKS):
                file.seek(last * number // (BLOCKS - 1))
                total.update(file.read(BLOCK_BYTES))
    except PermissionError:
        return ""
    return total.hexdigest()


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
