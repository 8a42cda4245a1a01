"""What is done to splits: read, map, score, write. The same in this process and in a Ray task.

Reading and encoding one split goes on while another is being scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import pyarrow as pa

from polar_ray.data.columns import Columns
from polar_ray.data.formats import Reader
from polar_ray.data.rows import Rows, Unreadable, concat
from polar_ray.data.splits import Split
from polar_ray.data.storage import place
from polar_ray.offline import grouping
from polar_ray.offline.parts import Written, find_part, part_name, write_part
from polar_ray.offline.scoring import Scoring, scored
from polar_ray.records import with_row_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a worker must know besides who scores; small, and the same for every call."""

    source: str
    """URI whose filesystem holds the input."""

    out: str
    fingerprint: str
    made_by: dict[str, str]
    """Provenance that every score of the job must have."""

    schema: pa.Schema
    columns: Columns
    prefix: str = ""
    num_buckets: int = 0
    num_shuffles: int = 0
    """Shuffle files, once all of them are written."""


@dataclass(frozen=True, slots=True)
class Call:
    """One method of `Worker` and the splits that it is about. May be repeated: the same call
    leaves the same behind."""

    method: Literal["score", "sample", "shuffle"]
    splits: tuple[Split, ...]
    number: int = 0
    """Of the shuffle file."""

    @property
    def size_bytes(self) -> int:
        """Its share of the input."""
        return sum(split.size_bytes for split in self.splits)


@dataclass(frozen=True, slots=True)
class Problem:
    """A split, or a whole file, that cannot be read."""

    what: str
    reason: str


class Worker:
    """Does the calls of a job; several threads may share it."""

    def __init__(self, scoring: Scoring, job: Job) -> None:
        self.job = job
        self._scoring = scoring
        self._out = place(job.out)
        self._reader = Reader(place(job.source).filesystem, job.schema)
        self._reading = Lock()
        self._bucket = -1
        self._sorted = Rows(job.schema.empty_table(), {})

    def do(self, call: Call) -> Any:
        """The result of the method below that a call names."""
        return getattr(self, call.method)(call)

    def score(self, call: Call) -> Written | Problem:
        """Writes the part of a split, unless it is there."""
        [split] = call.splits
        name = part_name(split)
        if (written := find_part(self._out, name, self.job.fingerprint)) is not None:
            return written
        rows = self._read(split)
        if isinstance(rows, Problem):
            return rows
        scores = scored(rows.table, self.job.columns, self._scoring, self.job.made_by)
        return write_part(
            self._out,
            name,
            rows.table,
            with_row_errors(scores, rows.errors),
            fingerprint=self.job.fingerprint,
            prefix=self.job.prefix,
        )

    def sample(self, call: Call) -> grouping.Sample | Problem:
        """The groups of a split."""
        [split] = call.splits
        rows = self._read(split)
        if isinstance(rows, Problem):
            return rows
        return grouping.sample(self.job.columns.apply(rows.table).table)

    def shuffle(self, call: Call) -> tuple[list[int], list[Problem]]:
        """Writes the rows of splits sorted by bucket; the sizes of the buckets."""
        found = [self._read(split) for split in call.splits]
        problems = [rows for rows in found if isinstance(rows, Problem)]
        rows = concat((rows for rows in found if isinstance(rows, Rows)), self.job.schema)
        table = rows.table.combine_chunks()
        request = self.job.columns.apply(table).table
        sizes = grouping.write_shuffle(
            self._out, call.number, table, request, rows.errors, self.job.num_buckets
        )
        return sizes, problems

    def close(self) -> None:
        """Lets go of the open file."""
        self._reader.close()

    def _read(self, split: Split) -> Rows | Problem:
        with self._reading:
            if not isinstance(split, grouping.BucketSplit):
                try:
                    return self._reader.read(split)
                except Unreadable as error:
                    return Problem(str(split), str(error))
            if self._bucket != split.bucket:
                job = self.job
                self._sorted = grouping.read_bucket(
                    self._out, job.num_shuffles, split.bucket, job.columns
                )
                self._bucket = split.bucket
            return self._sorted.part(split.start, split.stop)
