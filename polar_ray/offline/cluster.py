"""Scorers as actors of a Ray cluster, one per GPU. Who does what, and what becomes of the work of
actors and nodes that are lost, is decided in `offline.roster`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from threading import Lock
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from polar_ray.config import RescoreConfig, ScorerConfig
from polar_ray.errors import DeviceLost, JobStopped
from polar_ray.offline.crew import Call, Work
from polar_ray.offline.roster import Roster, Task
from polar_ray.offline.work import Job, OwnScorer, Worker
from polar_ray.scorer import Scorer

logger = logging.getLogger(__name__)

STOP_S = 60.0
"""How long parts that are being written may take once the job ends early."""


class ScoringActor:
    """A scorer, and the worker of the job at hand."""

    def __init__(self, config: ScorerConfig) -> None:
        # The model is loaded by the first call: what goes wrong then is that call's error, while
        # Ray tells of a constructor's only in words.
        self._config = config
        self._loading = Lock()
        self._scoring: OwnScorer | None = None
        self._worker: Worker | None = None

    def made_by(self) -> dict[str, str]:
        """Provenance of this actor's scores."""
        return self._load().made_by

    def call(self, job: Job, call: Call) -> Any:
        """Does one call. An actor that was restarted learns of the job with its first; one whose
        device is lost ends, so that another does the work."""
        try:
            worker = self._worker
            if worker is None or worker.job != job:
                worker = self._worker = Worker(self._load(), job)
            return worker.do(call.method, call.arguments)
        except DeviceLost as error:
            logger.error("this worker ends: %s", error)
            os._exit(1)

    def _load(self) -> OwnScorer:
        with self._loading:
            if self._scoring is None:
                self._scoring = OwnScorer(Scorer(self._config))
            return self._scoring


class ActorCrew:
    """`num_workers` actors on the cluster at hand, or on a local one."""

    def __init__(self, config: RescoreConfig) -> None:
        self._started = not ray.is_initialized()
        if self._started:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        self._in_flight = config.in_flight
        kind = ray.remote(ScoringActor).options(
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            max_restarts=-1,
            max_concurrency=config.in_flight,
        )
        self._actors = [kind.remote(config.scorer) for _ in range(config.num_workers)]
        try:
            # All of them: a node that sees another model under the same path would spoil the job.
            made = ray.get([actor.made_by.remote() for actor in self._actors])
        except RayTaskError as error:
            self.close()
            raise error.cause from None
        except RayError as error:
            self.close()
            raise JobStopped(f"the workers do not start: {error}") from None
        if any(one != made[0] for one in made):
            self.close()
            raise JobStopped(f"the workers do not have the same model: {made}")
        self.made_by: dict[str, str] = made[0]

    def work(self, job: Job, calls: Iterable[Call]) -> Work:
        """See `Crew`. Calls of a worker that died are done by others, see `Roster`."""
        shared = ray.put(job)
        roster = Roster(calls, len(self._actors), self._in_flight)
        running: dict[Any, tuple[Task, int]] = {}
        returning: dict[Any, int] = {}
        try:
            while True:
                while (given := roster.next()) is not None:
                    task, at = given
                    running[self._actors[at].call.remote(shared, task.call)] = given
                if roster.finished:
                    return
                [done], _ = ray.wait([*running, *returning], num_returns=1)
                if done in returning:
                    self._welcome(roster, returning.pop(done), done)
                    continue
                task, at = running.pop(done)
                try:
                    result = ray.get(done)
                except RayTaskError as error:
                    raise error.cause from None
                except RayError as error:
                    if roster.away(at):
                        logger.warning("a worker was lost; what it had is done again: %s", error)
                        # Answered once the actor is back.
                        ask = self._actors[at].made_by.options(max_task_retries=-1)
                        returning[ask.remote()] = at
                    roster.lost(task, str(error))
                    continue
                if (finished := roster.done(task, result)) is not None:
                    yield finished
        finally:
            # Whoever leaves early lets the parts that are being written come to their end.
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=STOP_S)

    def _welcome(self, roster: Roster, worker: int, answer: Any) -> None:
        """An actor is back, or cannot load its model any more. Raises `JobStopped` if it is
        another model, or if this was the last actor."""
        try:
            made_by = ray.get(answer)
        except RayError as error:
            roster.gone(worker, str(error))
            return
        if made_by != self.made_by:
            raise JobStopped(f"a worker came back with another model: {made_by}")
        roster.back(worker)

    def close(self) -> None:
        """Ends the actors, and Ray if it was started here."""
        for actor in self._actors:
            ray.kill(actor)
        if self._started:
            ray.shutdown()
