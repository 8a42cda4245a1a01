"""Units: the input cut into pieces, each of which becomes one part of the output. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polar_ray.data.storage import InputFile


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of one file: rows `start` up to `stop`, or (unpacked) bytes of a jsonl file.

    A line belongs to the unit in which it begins. With `path` None, rows of a bucket of grouped
    records (`polar_ray.offline.grouping`) whose number is `bucket`.
    """

    number: int
    path: str | None
    format: str
    start: int
    stop: int
    size_bytes: int
    """Its share of the input, for estimates of how far the work is."""

    bucket: int = -1

    @property
    def rows(self) -> int | None:
        """Number of rows, where that is known before reading."""
        return None if self.format == "jsonl" else self.stop - self.start

    @property
    def part(self) -> str:
        """Name of the file that it becomes."""
        return f"part-{self.number:06d}.parquet"

    def __str__(self) -> str:
        what = "bytes" if self.format == "jsonl" else "rows"
        where = self.path or f"bucket {self.bucket}"
        return f"{where}, {what} {self.start} to {self.stop}"


UNIT_BYTES = 128 << 20
"""Of jsonl, at most, however long the lines of its beginning are: a unit is held in memory."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a file holds: its rows, or for jsonl its (unpacked) bytes and those of a typical
    line."""

    file: InputFile
    length: int
    bytes_per_row: int = 1

    def step(self, rows: int) -> int:
        """Length of a piece of about `rows` rows."""
        return min(rows * self.bytes_per_row, UNIT_BYTES) if self.file.format == "jsonl" else rows


def cut(extents: Sequence[Extent], rows: int) -> list[Unit]:
    """Every file in pieces of about `rows` rows, in order; no piece spans two files."""
    units: list[Unit] = []
    for extent in extents:
        step = max(1, extent.step(rows))
        for start in range(0, extent.length, step):
            stop = min(start + step, extent.length)
            share = extent.file.size_bytes * (stop - start) // extent.length
            file = extent.file
            units.append(Unit(len(units), file.path, file.format, start, stop, share))
    return units


def cut_buckets(sizes: Sequence[int], rows: int, size_bytes: int) -> list[Unit]:
    """The same for buckets of so many rows each, which hold `size_bytes` in all."""
    total = max(1, sum(sizes))
    units: list[Unit] = []
    for bucket, size in enumerate(sizes):
        for start in range(0, size, rows):
            stop = min(start + rows, size)
            share = size_bytes * (stop - start) // total
            units.append(Unit(len(units), None, "grouped", start, stop, share, bucket))
    return units
