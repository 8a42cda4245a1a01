"""Batcher: many concurrent shards, one scorer, one inference thread.

The next forward is formed when the engine is free, from all that has arrived by then, up to a
token budget; meanwhile the shards behind it are tokenised. Knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from polar_ray.encoding import Encoded
from polar_ray.scorer import Scorer


@dataclass(frozen=True, slots=True)
class _Job:
    table: pa.Table
    encoded: Sequence[Encoded]
    result: asyncio.Future[pa.Table]

    @property
    def num_tokens(self) -> int:
        return sum(len(record.ids) for record in self.encoded)


class _NobodyWaits(Exception):
    """Ends a forward whose callers have all gone."""


class Batcher:
    """Runs a scorer for concurrent callers. Use it from one event loop; `close` it in the end."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._jobs: deque[_Job] = deque()
        self._running: asyncio.Task[None] | None = None
        self._pack_began = 0.0
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="forward")

    async def score(self, table: pa.Table) -> pa.Table:
        """The result table of one shard. The work of cancelled calls ends with the pack at hand."""
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self._encoder, self._scorer.encode, table)
        job = _Job(table, encoded, loop.create_future())
        self._jobs.append(job)
        if not self._busy:
            self._pack_began = time.monotonic()
            self._running = loop.create_task(self._run())
        return await job.result

    @property
    def _busy(self) -> bool:
        return self._running is not None and not self._running.done()

    def silent_s(self) -> float:
        """How long ago the engine began the pack that it is at; 0 while it has nothing to do."""
        return time.monotonic() - self._pack_began if self._busy else 0.0

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while jobs := take(self._jobs, self._scorer.max_tokens):
            try:
                tables = await loop.run_in_executor(self._engine, self._forward, jobs)
            except Exception as error:  # whatever it is, the callers must hear of it
                for job in jobs:
                    if not job.result.done():
                        job.result.set_exception(error)
                continue
            for job, table in zip(jobs, tables, strict=True):
                if not job.result.done():
                    job.result.set_result(table)

    def _forward(self, jobs: Sequence[_Job]) -> list[pa.Table]:
        """All jobs in one call of the engine, each one's own results back."""

        def before_pack() -> None:
            self._pack_began = time.monotonic()
            if all(job.result.done() for job in jobs):
                raise _NobodyWaits

        records = [record for job in jobs for record in job.encoded]
        together = self._scorer.forward(records, before_pack)
        tables, start = [], 0
        for job in jobs:
            part = together.part(start, start + len(job.encoded))
            tables.append(self._scorer.results(job.table, job.encoded, part))
            start += len(job.encoded)
        return tables

    def close(self) -> None:
        """Ends both threads once they have finished what they are at."""
        self._encoder.shutdown(wait=False, cancel_futures=True)
        self._engine.shutdown(wait=False, cancel_futures=True)


def take(jobs: deque[_Job], max_tokens: int) -> list[_Job]:
    """Removes the next forward's jobs from the queue: those nobody waits for any more are dropped,
    the rest taken in order while they fit into `max_tokens`, at least one."""
    taken: list[_Job] = []
    budget = max_tokens
    while jobs:
        if jobs[0].result.done():
            jobs.popleft()
            continue
        budget -= jobs[0].num_tokens
        if taken and budget < 0:
            break
        taken.append(jobs.popleft())
    return taken
