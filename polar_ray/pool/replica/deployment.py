"""Replica: one scorer on one device, as a Ray Serve deployment."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Mapping
from typing import NoReturn

import pyarrow as pa
from pydantic import ValidationError

from polar_ray.checkpoint import check
from polar_ray.config import ScorerConfig
from polar_ray.config_base import explain
from polar_ray.engine import Engine, fits_beside, prepare
from polar_ray.errors import ConfigError, DeadlineExceeded, DeviceLost
from polar_ray.pool.autoscaling import Queued, Workload
from polar_ray.pool.replica.away import with_reason
from polar_ray.pool.replica.loaded import Loaded, describe, try_to_load
from polar_ray.pool.replica.metrics import EngineMetrics
from polar_ray.pool.replica.reservation import Reservation
from polar_ray.pool.settings import check_environment
from polar_ray.stream import encode_arrow, read_arrow

# Serve's own: the log of this replica, which the dashboard shows too.
logger = logging.getLogger("ray.serve")

RETRY_S = 60.0
"""How long after an update that failed it is tried again."""


def end_process(error: DeviceLost) -> NoReturn:
    """Ends this process at once: its callers hear of a death and go elsewhere, and Serve starts
    another. An orderly end would ask the device for things that it cannot do any more."""
    logger.error("this replica ends: %s", error)
    os._exit(1)


class Replica:
    """Holds a loaded model, and exchanges it for another without losing a call."""

    def __init__(self, config: ScorerConfig) -> None:
        check_environment(os.environ)
        self._config = config
        self._loaded: Loaded | None = None
        self._ready = asyncio.Event()
        self._swap = asyncio.Lock()
        self._loading: asyncio.Task[None] | None = None
        self._retry: asyncio.Task[None] | None = None
        self._failed_updates = 0
        self._metrics = EngineMetrics()
        self._reservation = Reservation()
        self._workload = Workload()

    async def reconfigure(self, user_config: Mapping[str, object]) -> None:
        """Takes the model that `user_config` names, as Serve asks for at the start and whenever it
        changes: `{"model": DIR}`. At the start, raises `ConfigError` for what cannot be loaded.

        Later nothing is raised, because Serve ends a replica that does, and starts another with the
        same `user_config`: the model that serves goes on, an error is logged and counted
        (`failed_updates`), and it is tried again. Serve sends no work to a replica until this
        returns, so that where there is room for two models, the new one is loaded afterwards.
        """
        self._stop_trying()
        await self._update(user_config)

    def _stop_trying(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    async def _update(self, user_config: Mapping[str, object]) -> None:
        async with self._swap:
            if self._loading is not None:
                await asyncio.wait([self._loading])
            if (old := self._loaded) is None:
                config = self._with(user_config)
                self._take(await asyncio.to_thread(Loaded, config), config)
                return
            try:
                config = self._with(user_config)
                if config == self._config:
                    return
                folder = await asyncio.to_thread(check, config)
                beside = await asyncio.to_thread(fits_beside, config.engine, folder)
                if not beside:
                    await asyncio.to_thread(prepare, config.engine, folder)
            except Exception as error:  # whatever it is, the old model serves
                self._keep(user_config, describe(error))
                return
            if beside:
                self._loading = asyncio.create_task(self._load_beside(old, config))
            else:
                await self._load_instead(old, config)

    def _with(self, user_config: Mapping[str, object]) -> ScorerConfig:
        if user_config.keys() != {"model"}:
            raise ConfigError(f'user_config={user_config!r:.200}; it must be {{"model": DIR}}')
        try:
            return ScorerConfig(**{**dict(self._config), **user_config})
        except ValidationError as error:
            raise explain(error) from None

    def _take(self, loaded: Loaded, config: ScorerConfig) -> None:
        self._loaded, self._config = loaded, config
        self._ready.set()

    def _keep(self, user_config: Mapping[str, object], reason: str) -> None:
        """Says that the model before goes on, because another could not be loaded, and tries again
        later: the folder may not be complete yet, and Serve does not call twice."""
        self._failed_updates += 1
        logger.error("no update to %.200r, the model before goes on: %s", user_config, reason)
        self._retry = asyncio.create_task(self._again(user_config))

    async def _again(self, user_config: Mapping[str, object]) -> None:
        await asyncio.sleep(RETRY_S)
        self._retry = None
        await self._update(user_config)

    async def _load_beside(self, old: Loaded, config: ScorerConfig) -> None:
        """Loads a model while another serves, and lets that one finish what it has."""
        new = await self._try(config)
        if new is None:
            return
        self._take(new, config)
        await old.batcher.idle()
        old.close()

    async def _load_instead(self, old: Loaded, config: ScorerConfig) -> None:
        """Loads a model in the place of another, which comes back if that fails. Raises if it does
        not: nothing is left to serve."""
        self._ready.clear()
        await old.batcher.idle()
        self._loaded = None
        old.stop()
        if (new := await self._try(config, in_place_of=old.engine)) is None:
            old.close()
            new, config = await asyncio.to_thread(Loaded, self._config), self._config
            # Whoever waits must not do so again every minute.
            self._stop_trying()
        self._take(new, config)

    async def _try(
        self, config: ScorerConfig, *, in_place_of: Engine | None = None
    ) -> Loaded | None:
        """A model, or None after it was said why there is none."""
        try:
            new = await asyncio.to_thread(try_to_load, config, in_place_of)
        except DeviceLost as error:
            end_process(error)
        if isinstance(new, Loaded):
            return new
        self._keep({"model": config.model}, new)
        return None

    async def score(
        self,
        shard: bytes | list[Awaitable[pa.Table]],
        *,
        rank: int = 0,
        timeout_s: float = 600,
        trial_of: str | None = None,
        cost: int = 0,
        queued: Queued | None = None,
    ) -> bytes:
        """The result of a request table, which comes as a stream or as a list that holds a
        reference to it; the result is a stream.

        The reference comes inside a list so that Ray does not fetch the table before this replica
        has accepted the call. Work that has not begun when `timeout_s` is over is dropped: nobody
        waits for it any more. `trial_of`: the router for whose trial this replica is reserved.
        `cost`: bytes, as the router counts them; `queued`: how many more wait with it, see
        `pool.autoscaling`.
        """
        self._workload.hear(queued)
        try:
            with self._workload.work(cost):
                result = await asyncio.wait_for(
                    self._score(shard, rank, timeout_s, trial_of=trial_of), timeout_s
                )
        except (TimeoutError, asyncio.TimeoutError):
            raise DeadlineExceeded(f"the replica did not come to it in {timeout_s:.3g} s") from None
        except DeviceLost as error:
            end_process(error)
        return encode_arrow(result)

    async def _score(
        self,
        shard: bytes | list[Awaitable[pa.Table]],
        rank: int,
        timeout_s: float,
        *,
        trial_of: str | None,
    ) -> pa.Table:
        until = time.monotonic() + timeout_s
        table = read_arrow(shard) if isinstance(shard, bytes) else await shard[0]
        async with self._reservation.work(trial_of=trial_of):
            while (loaded := self._serving) is None:
                await self._ready.wait()
            return await loaded.batcher.score(table, rank=rank, timeout_s=until - time.monotonic())

    async def reserve(self, *, holder: str) -> None:
        """Returns once this replica is at nothing else; then it waits a few seconds for a trial of
        the router `holder`."""
        await self._reservation.reserve(holder, self._drained)

    async def _drained(self) -> None:
        if (loaded := self._loaded) is not None:
            await loaded.batcher.idle()

    @property
    def _serving(self) -> Loaded | None:
        return self._loaded if self._ready.is_set() else None

    async def heartbeat(self, queued: Queued | None = None) -> dict[str, str] | None:
        """What this replica scores with, at once, whatever the engine is at; None while it loads a
        model and has no other. See `away` for an engine that waits for others."""
        self._workload.hear(queued)
        if (loaded := self._serving) is None:
            return None
        return with_reason(loaded.scorer.provenance, loaded.waits_for)

    async def check_health(self) -> None:
        """Scores a probe; see `Loaded.check`. A replica that loads a model is healthy."""
        if (loaded := self._serving) is not None:
            self._metrics.publish(
                {**loaded.scorer.counters, "failed_updates": self._failed_updates}
            )
            try:
                await loaded.check()
            except DeviceLost as error:
                end_process(error)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's controller tells `pool.autoscaling.Policy` of this replica."""
        return self._workload.report()

    def __del__(self) -> None:
        loaded: Loaded | None = getattr(self, "_loaded", None)
        if loaded is not None:
            loaded.close()
