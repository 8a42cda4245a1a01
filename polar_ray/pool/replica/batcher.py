"""Batcher: many concurrent shards, one scorer, one inference thread.

The next forward is formed when the engine is free, from the most urgent that has arrived by then,
up to a token budget; meanwhile the shards behind it are tokenised. Between two packs of a long
forward, shards of a higher priority go first, and such as fit into one pack. Knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import pyarrow as pa

from polar_ray.encoding import Encoded
from polar_ray.errors import EngineError, PolarRayError
from polar_ray.pool.replica.progress import WatchedEngine, encode_progress, forward_progress
from polar_ray.scorer import Scorer, as_engine_error

logger = logging.getLogger(__name__)

ENCODE_ROWS = 64
"""Rows that are tokenised in one go; then another shard has its turn."""

NO_RANK = 1_000
"""Above every priority's."""


@dataclass(slots=True, eq=False)
class _Job:
    urgency: tuple[int, float, int]
    """Rank of the priority, deadline, order of arrival: the least goes first."""

    table: pa.Table
    encoded: Sequence[Encoded]
    num_tokens: int
    result: asyncio.Future[pa.Table]

    def __lt__(self, other: _Job) -> bool:
        return self.urgency < other.urgency


class _NobodyWaits(Exception):
    """Ends a forward whose callers have all gone."""


class Batcher:
    """Runs a scorer for concurrent callers. Use it from one event loop; `close` it in the end.

    `progress` is how its two threads get on, for a `Watchdog`.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._encodes, self._forwards = encode_progress(), forward_progress()
        self.progress = (self._encodes, self._forwards)
        scorer.engine = WatchedEngine(scorer.engine, self._forwards)
        self._jobs: list[_Job] = []
        self._lock = Lock()
        """Of `_jobs`: the event loop adds, the engine's thread takes between packs."""

        self._number = 0
        self._running: asyncio.Task[None] | None = None
        self._calls = 0
        self._idle = asyncio.Event()
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="forward")

    async def score(self, table: pa.Table, *, rank: int = 0, timeout_s: float = 600) -> pa.Table:
        """The result table of one shard. The work of cancelled calls ends with the pack at hand.

        `rank` of the priority and `timeout_s` order the work; the caller ends its wait itself.
        """
        self._calls += 1
        self._idle.clear()
        try:
            return await self._score(table, rank, timeout_s)
        finally:
            self._calls -= 1
            if self._calls == 0:
                self._idle.set()

    async def idle(self) -> None:
        """Returns once nobody waits for a result and the engine has nothing in hand."""
        while self._calls or self._busy:
            if self._calls:
                await self._idle.wait()
            elif self._running is not None:
                # What its callers have left is still with the engine until its pack ends.
                await asyncio.wait([self._running])

    async def _score(self, table: pa.Table, rank: int, timeout_s: float) -> pa.Table:
        loop = asyncio.get_running_loop()
        self._number += 1
        urgency = (rank, loop.time() + timeout_s, self._number)
        encoded: list[Encoded] = []
        for start in range(0, max(1, table.num_rows), ENCODE_ROWS):
            part = table.slice(start, ENCODE_ROWS)
            encoded += await loop.run_in_executor(self._encoder, self._encode, part)
        tokens = sum(len(record.ids) for record in encoded)
        job = _Job(urgency, table, encoded, tokens, loop.create_future())
        with self._lock:
            heapq.heappush(self._jobs, job)
        if not self._busy:
            self._running = loop.create_task(self._run())
        try:
            return await job.result
        except asyncio.CancelledError:
            self._drop(job)
            raise

    def _drop(self, job: _Job) -> None:
        """Lets go of work that nobody waits for: what is before it may take long."""
        with self._lock:
            if job in self._jobs:
                self._jobs.remove(job)
                heapq.heapify(self._jobs)

    def _encode(self, part: pa.Table) -> list[Encoded]:
        step = self._encodes.begin(part.nbytes)
        try:
            # The router has checked the table.
            encoded = self._scorer.encoder.encode(part)
            step.end(part.nbytes)
        finally:
            step.end()
        return encoded

    @property
    def _busy(self) -> bool:
        return self._running is not None and not self._running.done()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while jobs := self._take(self._scorer.max_tokens):
            await loop.run_in_executor(self._engine, self._serve, jobs, loop)

    def _take(
        self, max_tokens: int, *, above: int = NO_RANK, beside: int | None = None
    ) -> list[_Job]:
        with self._lock:
            return take(self._jobs, max_tokens, above=above, beside=beside)

    def _serve(
        self, jobs: Sequence[_Job], loop: asyncio.AbstractEventLoop, *, nested: bool = False
    ) -> None:
        """Scores jobs in one forward and tells their callers; runs in the engine's thread.

        Where that fails for one of several, each is tried alone.
        """
        try:
            tables = self._forward(jobs, loop, nested)
        except _NobodyWaits:
            pass
        except BaseException as error:  # whatever it is, the callers must hear of it
            if len(jobs) == 1 or isinstance(error, EngineError):
                loop.call_soon_threadsafe(_fail, jobs, error)
            else:
                logger.warning("trying %d shards apart", len(jobs), exc_info=error)
                for job in jobs:
                    self._serve([job], loop, nested=nested)
        else:
            loop.call_soon_threadsafe(_answer, jobs, tables)

    def _forward(
        self, jobs: Sequence[_Job], loop: asyncio.AbstractEventLoop, nested: bool
    ) -> list[pa.Table]:
        """All jobs in one call of the engine, each one's own results back."""
        planning = self._forwards.begin(sum(job.num_tokens for job in jobs))
        first = True

        def before_pack() -> None:
            nonlocal first
            planning.end()  # from here on its packs are what the thread is at
            if all(job.result.done() for job in jobs):
                raise _NobodyWaits
            if not (nested or first):
                self._let_pass(min(job.urgency[0] for job in jobs), loop)
            first = False

        try:
            records = [record for job in jobs for record in job.encoded]
            together = self._scorer.forward(records, before_pack)
        finally:
            planning.end()
        tables, start = [], 0
        for job in jobs:
            part = together.part(start, start + len(job.encoded))
            tables.append(self._scorer.results(job.table, job.encoded, part))
            start += len(job.encoded)
        return tables

    def _let_pass(self, rank: int, loop: asyncio.AbstractEventLoop) -> None:
        """Serves what may go before the next pack of jobs of this rank."""
        while above := self._take(self._scorer.max_tokens, above=rank):
            self._serve(above, loop, nested=True)
        # One pack of equals between two of these: the small do not wait, the large go on.
        if small := self._take(self._scorer.max_tokens, beside=rank):
            self._serve(small, loop, nested=True)

    def close(self) -> None:
        """Ends both threads once they have finished what they are at."""
        self._encoder.shutdown(wait=False, cancel_futures=True)
        self._engine.shutdown(wait=False, cancel_futures=True)


def _answer(jobs: Sequence[_Job], tables: Sequence[pa.Table]) -> None:
    for job, table in zip(jobs, tables, strict=True):
        if not job.result.done():
            job.result.set_result(table)


def _fail(jobs: Sequence[_Job], error: BaseException) -> None:
    own = error if isinstance(error, PolarRayError) else as_engine_error(error)
    for job in jobs:
        if not job.result.done():
            job.result.set_exception(own)


def take(
    jobs: list[_Job], max_tokens: int, *, above: int = NO_RANK, beside: int | None = None
) -> list[_Job]:
    """Removes the next forward's jobs from the heap: those nobody waits for any more are dropped,
    the rest taken by urgency while they fit into `max_tokens`, at least one, however large.

    `above`: only jobs of a higher priority than this rank. `beside`: only jobs of this rank or
    above that fit, possibly none.
    """
    taken: list[_Job] = []
    passed: list[_Job] = []
    last = above - 1 if beside is None else beside
    while jobs and jobs[0].urgency[0] <= last:
        job = heapq.heappop(jobs)
        if job.result.done():
            continue
        if job.num_tokens > max_tokens and (taken or beside is not None):
            passed.append(job)
            if beside is None:
                break
            continue
        taken.append(job)
        max_tokens -= job.num_tokens
    for job in passed:
        heapq.heappush(jobs, job)
    return taken
