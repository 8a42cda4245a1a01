"""Scorers as actors of a Ray cluster, one per GPU. A lost actor or node costs its calls a retry."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from threading import Lock
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from polar_ray.config import RescoreConfig, ScorerConfig
from polar_ray.errors import JobStopped
from polar_ray.offline.crew import Call, Work
from polar_ray.offline.work import Job, OwnScorer, Worker
from polar_ray.scorer import Scorer

logger = logging.getLogger(__name__)

MOST_LOSSES = 4
"""Workers that one call may lose before the job stops: its records may be what kills them."""


STOP_S = 60.0


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
        """Does one call. An actor that was restarted learns of the job with its first."""
        worker = self._worker
        if worker is None or worker.job != job:
            worker = self._worker = Worker(self._load(), job)
        return getattr(worker, call.method)(*call.arguments)

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
        """See `Crew`. Calls of a worker that died are done by whichever is free."""
        shared = ray.put(job)
        waiting = iter(calls)
        again: list[Call] = []
        losses: Counter[Call] = Counter()
        running: dict[Any, tuple[Call, int]] = {}
        returning: dict[Any, int] = {}
        load = [0] * len(self._actors)
        try:
            while True:
                while free := [i for i in self._up(returning) if load[i] < self._in_flight]:
                    call = again.pop() if again else next(waiting, None)
                    if call is None:
                        break
                    at = min(free, key=load.__getitem__)
                    running[self._actors[at].call.remote(shared, call)] = (call, at)
                    load[at] += 1
                if not (running or again):
                    return
                [done], _ = ray.wait([*running, *returning], num_returns=1)
                if done in returning:
                    self._check(ray.get(done))
                    del returning[done]
                    continue
                call, at = running.pop(done)
                load[at] -= 1
                try:
                    result = ray.get(done)
                except RayTaskError as error:
                    raise error.cause from None
                except RayError as error:
                    losses[call] += 1
                    if losses[call] >= MOST_LOSSES:
                        raise JobStopped(
                            f"{call.arguments[0]} lost its worker {MOST_LOSSES} times: {error}"
                        ) from None
                    logger.warning("a worker was lost; %s is done again", call.arguments[0])
                    again.append(call)
                    if at not in returning.values():
                        # Answered once the actor is back.
                        ask = self._actors[at].made_by.options(max_task_retries=-1)
                        returning[ask.remote()] = at
                    continue
                yield call, result
        finally:
            # Whoever leaves early lets the parts that are being written come to their end.
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=STOP_S)

    def _up(self, returning: dict[Any, int]) -> list[int]:
        """Actors that are not on their way back."""
        return [i for i in range(len(self._actors)) if i not in returning.values()]

    def _check(self, made_by: dict[str, str]) -> None:
        if made_by != self.made_by:
            raise JobStopped(f"a worker came back with another model: {made_by}")

    def close(self) -> None:
        """Ends the actors, and Ray if it was started here."""
        for actor in self._actors:
            ray.kill(actor)
        if self._started:
            ray.shutdown()
