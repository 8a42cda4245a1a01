"""Crews: who does the calls of a job. Threads of this process here, Ray actors in `cluster`."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from polar_ray.config import RescoreConfig
from polar_ray.offline.work import Job, OwnScorer, RunningPool, Scoring, Worker


@dataclass(frozen=True, slots=True)
class Call:
    """One method of `Worker` and its arguments."""

    method: str
    arguments: tuple[Any, ...]


Work = Generator[tuple[Call, Any], None, None]
"""Calls with their results. Closing it early waits for what is being written."""


class Crew(Protocol):
    """Does calls in any order, a bounded number of them at a time."""

    made_by: dict[str, str]

    def work(self, job: Job, calls: Iterable[Call]) -> Work:
        """Each call with its result, as they come; raises the first error that a call raises."""
        ...

    def close(self) -> None: ...


class ThreadCrew:
    """One scorer of this process, or a pool elsewhere, used from a few threads."""

    def __init__(self, scoring: Scoring, num_threads: int) -> None:
        self._scoring = scoring
        self._num_threads = num_threads
        self.made_by = scoring.made_by
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="rescore")

    def work(self, job: Job, calls: Iterable[Call]) -> Work:
        """See `Crew`."""
        worker = Worker(self._scoring, job)
        waiting = iter(calls)
        running: dict[Future[Any], Call] = {}
        try:
            while True:
                for call in islice(waiting, self._num_threads - len(running)):
                    running[self._threads.submit(worker.do, call.method, call.arguments)] = call
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            # Whoever leaves early waits for the parts that are being written.
            wait(running)

    def close(self) -> None:
        """Ends the threads and lets go of the model."""
        self._threads.shutdown()
        self._scoring.close()


def hire(config: RescoreConfig) -> Crew:
    """The crew that a config describes, ready to work."""
    if config.num_workers:
        from polar_ray.offline.cluster import ActorCrew

        return ActorCrew(config)
    return ThreadCrew(scoring_for(config), config.in_flight)


def scoring_for(config: RescoreConfig) -> Scoring:
    """A scorer in this process, or the pool that the config names."""
    if config.uses_pool:
        from polar_ray.client import connect

        pool = connect(
            app_name=config.app_name,
            address=config.address,
            timeout_s=config.timeout_s,
            priority="offline",
        )
        return RunningPool(pool)
    from polar_ray.scorer import Scorer

    return OwnScorer(Scorer(config.scorer))
