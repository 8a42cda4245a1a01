"""What there is to rescore: files, how much they hold, and where their columns are."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from typing import TypeAlias, TypeVar

import pyarrow as pa

from polar_ray.config import RescoreConfig
from polar_ray.data.columns import Columns, columns_for
from polar_ray.data.formats import Unreadable, extent
from polar_ray.data.results import check_columns
from polar_ray.data.schemas import Held, together
from polar_ray.data.splits import Extent
from polar_ray.data.storage import InputFile, list_files, place
from polar_ray.data.written import check_written
from polar_ray.errors import ConfigError, JobStopped
from polar_ray.offline.conservation import Problem
from polar_ray.offline.state import Opened

T = TypeVar("T")
R = TypeVar("R")
IO_THREADS = 16

TELL_S = 1.0
"""Between two words on how far work in threads is."""

BLOCKS, BLOCK_BYTES = 16, 1 << 14
"""Of each local file, that are looked at to see whether it is the same."""


Content: TypeAlias = tuple[int, str, str]
"""What a file is: its size, when it was modified, and a digest of its blocks."""

Tell = Callable[[int], None]
"""Hears of how many bytes of the input are done."""


@dataclass(slots=True)
class Input:
    """What there is to rescore."""

    source: str
    files: list[InputFile]
    extents: list[Extent]
    schema: pa.Schema
    likely: pa.Schema
    """As the columns of JSON are most likely meant; see `schemas.together`."""

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


def open_input(
    config: RescoreConfig,
    source: str,
    files: Sequence[InputFile] | None = None,
    kept: Opened | None = None,
    tell: Tell = lambda size_bytes: None,
) -> Input:
    """Reads what the files hold, unless that was `kept` of just these, and finds the columns.

    Raises `ConfigError`, or `JobStopped` for a damaged file unless the config skips those.
    """
    files = list_files(source) if files is None else list(files)
    if kept is None:
        extents, skipped, schema, likely = _read(config, source, files, tell)
    else:
        lengths = zip(files, kept.lengths, strict=True)
        extents = [Extent(file, length, lines) for file, (length, lines) in lengths]
        schema, likely = _schema(kept.columns), _schema(kept.likely_columns)
        skipped = []
    columns = columns_for(config, likely)
    check_columns(schema.names, config.prefix)
    return Input(source, files, extents, schema, likely, columns, skipped)


def _read(
    config: RescoreConfig, source: str, files: list[InputFile], tell: Tell
) -> tuple[list[Extent], list[Problem], pa.Schema, pa.Schema]:
    filesystem = place(source).filesystem
    done, counting = 0, Lock()

    def one(file: InputFile) -> tuple[Extent, Held] | Problem:
        seen = 0

        def count(size_bytes: int) -> None:
            nonlocal done, seen
            with counting:
                seen, done = seen + size_bytes, done + size_bytes

        try:
            return extent(filesystem, file, count)
        except Unreadable as error:
            return Problem(file.path, str(error))
        finally:
            count(file.size_bytes - seen)

    found = in_parallel(one, files, lambda: tell(done))
    skipped = [one for one in found if isinstance(one, Problem)]
    stop_unless_skipped(config, skipped)
    good = [one for one in found if not isinstance(one, Problem)]
    if not good:
        raise ConfigError(f"none of the files of {source!r} can be read: {skipped[0].reason}")
    held = [(extent.file.path, one) for extent, one in good]
    schema = together(held)
    if not len(schema):
        raise ConfigError(f"{source!r} holds no row: {len(good)} file(s), all of them empty")
    for ending in (".parquet", ".arrow"):  # of parts and of shuffle files
        check_written(schema, ending, held)
    return [one for one, _ in good], skipped, schema, together(held, likely=True)


def keep(given: Input) -> Opened | None:
    """What was read of an input; None where some of it could not be read, as it may be later."""
    if given.skipped:
        return None
    return Opened(
        lengths=[(extent.length, extent.lines) for extent in given.extents],
        columns=b64encode(given.schema.serialize()).decode(),
        likely_columns=b64encode(given.likely.serialize()).decode(),
    )


def _schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(b64decode(text)))


def contents(source: str, files: Sequence[InputFile]) -> dict[str, Content]:
    """What each file is, by its path."""
    local = place(source).filesystem.type_name == "local"

    def one(file: InputFile) -> Content:
        return (*file.version, content_digest(file.path) if local else "")

    return dict(zip((file.path for file in files), in_parallel(one, files), strict=True))


def arrived(source: str, before: Mapping[str, Content]) -> list[str]:
    """The files that came into an input since it was listed. Raises `JobStopped` that names one of
    those it had that is not what it was."""
    try:
        files = list_files(source)
        now = contents(source, [file for file in files if file.path in before])
    except (ConfigError, FileNotFoundError) as error:
        raise changed(f"{source} ({error})") from None
    if gone := [path for path in before if path not in now]:
        raise changed(gone[0], "went")
    if other := [path for path in before if before[path] != now[path]]:
        raise changed(other[0])
    return [file.path for file in files if file.path not in before]


def changed(what: str, how: str = "changed") -> JobStopped:
    """The error for an input that is not what it was."""
    return JobStopped(
        f"{what} {how} while the job ran. Parts are of what it was: put that back, or begin anew "
        "in another folder"
    )


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


def in_parallel(
    do: Callable[[T], R], items: Sequence[T], tell: Callable[[], None] = lambda: None
) -> list[R]:
    """`do` of every item, in order, many at a time: mostly waiting for storage. Calls `tell` about
    every second meanwhile."""
    with ThreadPoolExecutor(IO_THREADS) as threads:
        futures = [threads.submit(do, item) for item in items]
        try:
            left = set(futures)
            while left:
                done, left = wait(left, TELL_S, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()  # raises what it raised
                if left:
                    tell()
        finally:
            for future in futures:
                future.cancel()
    return [future.result() for future in futures]
