"""What is done to splits: read, map, score, write. The same in this process and in a Ray task.

Reading and encoding one split goes on while another is being scored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Literal

import pyarrow as pa

from polar_ray.data.columns import Columns
from polar_ray.data.formats import Reader
from polar_ray.data.rows import Rows, Unreadable, concat
from polar_ray.data.splits import Split
from polar_ray.data.storage import place
from polar_ray.errors import JobStopped
from polar_ray.offline import grouping
from polar_ray.offline.conservation import Problem
from polar_ray.offline.grouping import Shuffled
from polar_ray.offline.inputs import changed
from polar_ray.offline.parts import Written, find_part, write_part
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
    skips: bool = False
    """Whether splits that cannot be read are left out."""

    num_buckets: int = 0
    num_shuffles: int = 0
    """Shuffle files, once all of them are written."""

    def shuffled_from(self, call: Call) -> str:
        """What the shuffle file of a call is."""
        splits = "\n".join(map(str, call.splits))
        return f"{self.fingerprint} {call.number} of {self.num_buckets} buckets\n{splits}"


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


class Worker:
    """Does the calls of a job; several threads may share it."""

    def __init__(self, scoring: Scoring, job: Job) -> None:
        self.job = job
        self._scoring = scoring
        self._out = place(job.out)
        self._source = place(job.source)
        self._reader = Reader(self._source.filesystem, job.schema)
        self._reading = Lock()
        self._closed = False
        self._bucket = -1
        self._sorted = Rows(pa.Table.from_batches([], job.schema), {})

    def do(self, call: Call) -> Any:
        """The result of the method below that a call names."""
        return getattr(self, call.method)(call)

    def score(self, call: Call) -> Written | Problem:
        """Writes the part of a split, unless it is there."""
        [split] = call.splits
        if (written := find_part(self._out, split, self.job.fingerprint)) is not None:
            return written
        rows = self._read(split)
        if isinstance(rows, Problem):
            return rows
        scores = scored(rows.table, self.job.columns, self._scoring, self.job.made_by)
        return write_part(
            self._out,
            split,
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

    def shuffle(self, call: Call) -> Shuffled:
        """Writes the rows of splits sorted by bucket. What cannot be read is said with them; where
        it is not to be left out, nothing is written."""
        found = [self._read(split) for split in call.splits]
        skipped = [rows for rows in found if isinstance(rows, Problem)]
        if skipped and not self.job.skips:
            return Shuffled([], skipped)
        rows = concat((rows for rows in found if isinstance(rows, Rows)), self.job.schema)
        rows = replace(rows, table=rows.table.combine_chunks())
        request = self.job.columns.apply(rows.table).table
        what = self.job.shuffled_from(call)
        count = self.job.num_buckets
        return grouping.write_shuffle(self._out, call.number, what, rows, request, skipped, count)

    def close(self) -> None:
        """Lets go of the open file. Calls that still run, as nobody waits for them, read no more:
        half a file would pass for a whole one."""
        with self._reading:
            self._closed = True
            self._reader.close()

    def _read(self, split: Split) -> Rows | Problem:
        with self._reading:
            if self._closed:
                raise JobStopped("the job was stopped")
            if isinstance(split, grouping.BucketSplit):
                return self._read_bucket(split)
            rows: Rows | Problem
            try:
                rows = self._reader.read(split)
            except Unreadable as error:
                rows = Problem(str(split), str(error), split.rows)
            self._check_unchanged(split)
            return rows

    def _read_bucket(self, split: grouping.BucketSplit) -> Rows:
        if self._bucket != split.bucket:
            job = self.job
            try:
                self._sorted = grouping.read_bucket(
                    self._out, job.num_shuffles, split.bucket, job.num_buckets, job.columns
                )
            except pa.ArrowException as error:
                reason = f"{split}: a shuffle file is damaged ({error})"
                raise JobStopped(f"{reason}; run this again") from None
            self._bucket = split.bucket
        rows = self._sorted.part(split.start, split.stop)
        if rows.num_rows != split.rows:
            raise JobStopped(f"{split}: shuffle files changed while the job ran; run this again")
        return rows

    def _check_unchanged(self, split: Split) -> None:
        """Raises `JobStopped` where what was read is not the file that the job is about."""
        info = self._source.filesystem.get_file_info(split.path)
        size, modified = split.version
        now = str(info.mtime_ns or "")
        if self._source.filesystem.type_name != "local":
            # Stores tell the time of one object to the second, where a listing says more.
            modified, now = modified[:-9], now[:-9]
        if (info.size, now) != (size, modified):
            raise changed(split.path)
