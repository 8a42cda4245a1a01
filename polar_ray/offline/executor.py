"""Executors: where the calls of a job are done. Threads of this process here, Ray tasks in `tasks`.

An executor only hands out calls and passes on results. What becomes of records, losses and
overload is decided by who scores: the scorer, or the pool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any, Protocol

from polar_ray.offline.scoring import Scoring, made_by
from polar_ray.offline.work import Call, Job, Worker

THREADS = 2
"""Of a task: one split is read while another is scored."""

Work = Generator[tuple[Call, Any], None, None]
"""Calls with their results."""


class Executor(Protocol):
    """Does calls, a bounded number of them at a time."""

    made_by: dict[str, str]
    """Provenance of the scores."""

    def work(self, job: Job, calls: Sequence[Call]) -> Work:
        """Each call with its result, as they come; raises the first error that a call raises."""
        ...


class ThreadExecutor:
    """One scorer of this process, or a pool elsewhere, used from a few threads."""

    def __init__(self, scoring: Scoring, num_threads: int) -> None:
        self._scoring = scoring
        self._num_threads = num_threads
        self.made_by = made_by(scoring)

    def work(self, job: Job, calls: Sequence[Call]) -> Work:
        """See `Executor`."""
        return in_order(Worker(self._scoring, job), calls, self._num_threads)


def in_order(worker: Worker, calls: Iterable[Call], num_threads: int) -> Work:
    """Calls with their results in order; the next ones are begun while one is waited for. Leaving
    early waits for the parts that are being written."""
    waiting = iter(calls)
    running: deque[tuple[Call, Future[Any]]] = deque()
    with closing(worker), ThreadPoolExecutor(num_threads, "rescore") as threads:
        while True:
            for call in islice(waiting, num_threads - len(running)):
                running.append((call, threads.submit(worker.do, call)))
            if not running:
                return
            call, future = running.popleft()
            yield call, future.result()
