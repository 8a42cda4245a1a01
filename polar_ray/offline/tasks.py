"""Ray tasks that read, map and write splits, on any node, and have a pool of their cluster score.

A task keeps nothing: it does a run of calls, each of which may be repeated. Ray repeats tasks that
are lost with their process or node; tasks that are late get a backup (`backups`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError

from polar_ray.client.handle import ROUTER, cause
from polar_ray.config import RescoreConfig
from polar_ray.errors import JobStopped, PoolError
from polar_ray.offline.backups import Backups, Copy, runs
from polar_ray.offline.executor import THREADS, Work, in_order
from polar_ray.offline.own_pool import own_pool
from polar_ray.offline.scoring import PAUSE_S, Scoring, made_by, scoring_for
from polar_ray.offline.work import Call, Job, Worker

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""No wait is longer: lateness is looked at in between."""

FETCH_S = 120.0
"""A result that was announced is there by then, or its node is lost and Ray has made it again."""

ASK_EVERY_S, ASK_S = 30.0, 5.0
"""How often a pool is asked for its number of replicas, and how long it may take to say it."""

CONNECT_S = 60.0
"""A new task tries so long to find the pool, which was there when the job began."""


def do_calls(config: RescoreConfig, job: Job, calls: Sequence[Call]) -> Iterator[Any]:
    """The results of calls, in order; a Ray task."""
    for _, result in in_order(Worker(_connected(config), job), calls, THREADS):
        yield result


TASK = ray.remote(do_calls).options(
    num_cpus=0,  # replicas may have taken all; the driver bounds how many tasks there are
    max_retries=-1,
    num_returns="streaming",
    scheduling_strategy="SPREAD",
    name="rescore",
)


@lru_cache(maxsize=1)
def _connected(config: RescoreConfig) -> Scoring:
    """The pool; once for all tasks that a process does."""
    until = time.monotonic() + CONNECT_S
    while True:
        try:
            return scoring_for(config)
        except PoolError:  # Serve's controller is being replaced
            if time.monotonic() > until:
                raise
        time.sleep(PAUSE_S)


@contextmanager
def open_tasks(config: RescoreConfig, out: str) -> Iterator[TaskExecutor]:
    """Tasks around the pool that the config names, or one of its own for as long as the block."""
    with own_pool(config, out) if config.num_workers else nullcontext(config.app_name) as name:
        kept = {"timeout_s": config.timeout_s, "patience_s": config.patience_s}
        yield TaskExecutor(RescoreConfig(app_name=name, in_flight=config.in_flight, **kept))


class TaskExecutor:
    """`in_flight` tasks at a time for each replica of a running pool."""

    def __init__(self, config: RescoreConfig) -> None:
        self._config = config
        self.made_by = made_by(scoring_for(config))
        self._handle = serve.get_deployment_handle(ROUTER, config.app_name)
        self._replicas = 1
        self._asked_s = float("-inf")

    def work(self, job: Job, calls: Sequence[Call]) -> Work:
        """See `Executor`. Tasks that are out when it is left early are cancelled."""
        backups = Backups(runs(calls, self._room()))
        tasks: dict[Any, Copy] = {}
        try:
            while not backups.finished:
                while (copy := backups.next(time.monotonic(), self._room())) is not None:
                    rest = copy.run.calls[copy.at :]
                    if copy.run.copies > 1:
                        logger.warning("late: %s; another task does it, too", rest[0].splits[0])
                    tasks[TASK.remote(self._config, job, rest)] = copy
                ready, _ = ray.wait(list(tasks), num_returns=1, timeout=POLL_S)
                for task in ready:
                    copy, result = tasks[task], _next(task)
                    call = backups.result(copy, time.monotonic())
                    if copy.run.done == len(copy.run.calls):
                        self._drop(tasks, copy)
                    if call is not None:
                        yield call, result
        finally:
            for task in tasks:
                ray.cancel(task)

    def _drop(self, tasks: dict[Any, Copy], done: Copy) -> None:
        """Takes the tasks of a run away that is done."""
        for task in [task for task, copy in tasks.items() if copy.run is done.run]:
            if tasks.pop(task) is not done:
                ray.cancel(task)

    def _room(self) -> int:
        """How many tasks may be out. A pool that does not say how many replicas it has at present
        has as many as before."""
        if time.monotonic() - self._asked_s > ASK_EVERY_S:
            try:
                stats = self._handle.stats.remote().result(timeout_s=ASK_S)
                self._replicas = max(1, int(stats["replicas"]))
            except Exception as error:  # Serve raises what it likes while a router is away
                logger.info("the pool does not say how many replicas it has: %s", error)
            self._asked_s = time.monotonic()
        return self._config.in_flight * self._replicas


def _next(task: Any) -> Any:
    """The next result of a task that has one."""
    try:
        return ray.get(next(task), timeout=FETCH_S)
    except RayTaskError as error:
        raise cause(error) from None
    except (RayError, TimeoutError) as error:
        reason = str(error).rstrip(".")
        raise JobStopped(f"a task was lost: {reason}. Run this again") from None
