"""One worker's work: a unit in, a part out. The same for a process, a Ray actor and a thread.

Reading and encoding the next unit goes on while the engine has the one before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from polar_ray.client import Client
from polar_ray.client.same_model import check_same_model
from polar_ray.data.columns import Columns
from polar_ray.data.formats import Reader, Rows, Unreadable
from polar_ray.data.splits import Unit
from polar_ray.data.storage import place
from polar_ray.errors import TooLarge
from polar_ray.offline import grouping
from polar_ray.offline.parts import Written, write_part
from polar_ray.records import empty_scores, poisoned_scores, provenance, with_row_errors
from polar_ray.scorer import Scorer

PROBE = pa.table({"prompt": ["1 + 1"], "reference": ["2"], "output": ["2"]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a worker must know besides its scorer; small, and the same for every call."""

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
    spills: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """A unit whose input cannot be read."""

    what: str
    reason: str


class Scoring(Protocol):
    """Whoever turns request tables into result tables; calls may come from several threads."""

    made_by: dict[str, str]

    def score(self, request: pa.Table) -> pa.Table: ...
    def close(self) -> None: ...


class OwnScorer:
    """A scorer in this process: one thread encodes while another has the engine."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.made_by = scorer.provenance
        self._encoding, self._engine = Lock(), Lock()

    def score(self, request: pa.Table) -> pa.Table:
        """See `Scoring`."""
        with self._encoding:
            encoded = self._scorer.encode(request)
        with self._engine:
            forwarded = self._scorer.forward(encoded)
        return self._scorer.results(request, encoded, forwarded)

    def close(self) -> None:
        """Lets go of the model."""
        self._scorer.close()


@dataclass(slots=True)
class RunningPool:
    """A pool over its client, which tries again what may pass; what is too large is halved."""

    client: Client
    made_by: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.made_by = provenance(self.score(PROBE))

    def score(self, request: pa.Table) -> pa.Table:
        """See `Scoring`."""
        try:
            return self.client.score_table(request)
        except TooLarge:
            half = request.num_rows // 2
            if half == 0:
                raise
            one, other = self.score(request.slice(0, half)), self.score(request.slice(half))
            check_same_model(
                provenance(one), other, f"between two halves of {request.num_rows} rows"
            )
            return pa.concat_tables([one, other])

    def close(self) -> None:
        """Closes connections."""
        self.client.close()


def scored(
    rows: pa.Table, columns: Columns, scoring: Scoring, made_by: Mapping[str, str]
) -> pa.Table:
    """The result table of rows of a dataset.

    Raises `ModelChanged` if their scores do not compare with those of `made_by`.
    """
    mapped = columns.apply(rows)
    scores = scoring.score(mapped.table)
    check_same_model(made_by, scores, "while the job ran")
    return with_row_errors(scores, mapped.errors)


class Worker:
    """Does the calls of a job. Every method may be called from several threads, and raises
    `Unreadable`, which `do` turns into its answer."""

    def __init__(self, scoring: Scoring, job: Job) -> None:
        self.job = job
        self._scoring = scoring
        self._source = place(job.source).filesystem
        self._out = place(job.out)
        self._reader = Reader(self._source, job.schema)
        self._reading = Lock()
        self._bucket = -1
        self._sorted = Rows(job.schema.empty_table(), {})

    def do(self, method: str, arguments: Sequence[Any]) -> Any:
        """One of the methods below; a `Problem` where the unit, its first argument, cannot be
        read."""
        try:
            return getattr(self, method)(*arguments)
        except Unreadable as error:
            return Problem(str(arguments[0]), str(error))

    def score(self, unit: Unit) -> Written:
        """Writes the part of a unit."""
        rows = self._read(unit)
        return self._write(unit, rows, self._score(rows))

    def count(self, unit: Unit) -> int:
        """The number of rows of a unit."""
        return len(self._read(unit).table)

    def score_rows(self, unit: Unit, start: int, stop: int) -> pa.Table:
        """The result table of some rows of a unit; nothing is written."""
        return self._score(self._read(unit).part(start, stop))

    def join(self, unit: Unit, pieces: Sequence[pa.Table | None]) -> Written:
        """Writes the part of a unit whose rows were scored in pieces, in order; None stands for a
        record that ends whoever scores it."""
        rows = self._read(unit)
        poisoned = poisoned_scores(self.job.made_by)
        scores = [poisoned if piece is None else piece for piece in pieces]
        return self._write(unit, rows, pa.concat_tables([empty_scores(self.job.made_by), *scores]))

    def _score(self, rows: Rows) -> pa.Table:
        scores = scored(rows.table, self.job.columns, self._scoring, self.job.made_by)
        return with_row_errors(scores, rows.errors)

    def _write(self, unit: Unit, rows: Rows, scores: pa.Table) -> Written:
        return write_part(
            self._out,
            unit.part,
            rows.table,
            scores,
            fingerprint=self.job.fingerprint,
            prefix=self.job.prefix,
            left_out=rows.left_out,
        )

    def sample(self, unit: Unit) -> grouping.Sample:
        """The groups of a unit."""
        return grouping.sample(self.job.columns.apply(self._read(unit).table).table)

    def spill(self, name: str, units: Sequence[Unit]) -> tuple[list[int], list[Problem]]:
        """Writes the rows of some units sorted by bucket; the sizes of the buckets."""
        tables = [self.job.schema.empty_table()]
        errors: dict[int, str] = {}
        problems: list[Problem] = []
        at = 0
        for unit in units:
            try:
                rows = self._read(unit)
            except Unreadable as error:
                problems.append(Problem(str(unit), str(error)))
                continue
            tables.append(rows.table)
            errors |= {at + i: reason for i, reason in rows.errors.items()}
            at += rows.table.num_rows
        table = pa.concat_tables(tables).combine_chunks()
        request = self.job.columns.apply(table).table
        sizes = grouping.write_spill(self._out, name, table, request, errors, self.job.num_buckets)
        return sizes, problems

    def _read(self, unit: Unit) -> Rows:
        with self._reading:
            if unit.path is not None:
                return self._reader.read(unit)
            if self._bucket != unit.bucket:
                self._sorted = self._sort(unit.bucket)
                self._bucket = unit.bucket
            return self._sorted.part(unit.start, unit.stop)

    def _sort(self, bucket: int) -> Rows:
        table, reasons = grouping.read_bucket(self._out, self.job.spills, bucket)
        hashes, _ = grouping.group_hashes(self.job.columns.apply(table).table)
        order = np.argsort(hashes, kind="stable")
        errors = {i: r for i, at in enumerate(order) if (r := reasons[at]) is not None}
        return Rows(table.take(pa.array(order)), errors)
