"""Splits: the input cut into pieces that can be read one by one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polar_ray.data.storage import InputFile


@dataclass(frozen=True, slots=True)
class Split:
    """A piece of one file: rows `start` up to `stop`, or (unpacked) bytes of a jsonl file.

    A line belongs to the split in which it begins.
    """

    number: int
    path: str
    format: str
    start: int
    stop: int
    size_bytes: int
    """Its share of the input, for estimates of how far the work is."""

    version: tuple[int, str]
    """Of the file from which it was cut; another one's rows are not its rows."""

    @property
    def rows(self) -> int | None:
        """How many it has; None where only reading it tells."""
        return None if self.format == "jsonl" else self.stop - self.start

    def __str__(self) -> str:
        what = "bytes" if self.format == "jsonl" else "rows"
        return f"{self.path}, {what} {self.start} to {self.stop}"


SPLIT_BYTES = 128 << 20
"""Of jsonl, at most, however long its lines are: a split is held in memory."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a file holds: its rows, or for jsonl its (unpacked) bytes and its lines."""

    file: InputFile
    length: int
    lines: int = 0
    """Rows of jsonl."""

    @property
    def rows(self) -> int:
        """In the whole file."""
        return self.lines if self.file.format == "jsonl" else self.length

    def step(self, rows: int) -> int:
        """Length of a piece of about `rows` rows."""
        if self.file.format != "jsonl":
            return rows
        return min(-(-rows * self.length // max(1, self.lines)), SPLIT_BYTES)


def cut(extents: Sequence[Extent], rows: int) -> list[Split]:
    """Every file in pieces of about `rows` rows, in order; no piece spans two files."""
    splits: list[Split] = []
    for extent in extents:
        step = max(1, extent.step(rows))
        for start in range(0, extent.length, step):
            stop = min(start + step, extent.length)
            share = extent.file.size_bytes * (stop - start) // extent.length
            file = extent.file
            splits.append(
                Split(len(splits), file.path, file.format, start, stop, share, file.version)
            )
    return splits
