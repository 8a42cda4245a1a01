"""Replica: one scorer on one device, as a Ray Serve deployment."""

import asyncio
import os
import time
from collections.abc import Awaitable
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from polar_ray.config import ScorerConfig, explain
from polar_ray.errors import ConfigError, DeadlineExceeded, EngineError
from polar_ray.pool.batcher import Batcher
from polar_ray.pool.metrics import EngineMetrics
from polar_ray.pool.reservation import Reservation
from polar_ray.pool.settings import check_environment
from polar_ray.pool.watchdog import Watchdog
from polar_ray.records import check_scores
from polar_ray.scorer import Scorer
from polar_ray.stream import encode_arrow, read_arrow

PROBE = {"prompt": "1 + 1 =", "reference": "2", "output": "2"}
PROBE_TIMEOUT_S = 5.0
"""Well below the time after which Serve counts a health check as failed (`pool.settings`)."""

PROBE_TOLERANCE = {"float32": 1e-3}
"""How far the probe's score may be from that at the start. Neighbours in its pack change the last
digits; a damaged weight or device changes more."""

COARSE_TOLERANCE = 0.1
"""The same for all other number formats."""

WARM_UP = [PROBE, {**PROBE, "output": "It is 3, I think."}]
"""Two records in a pack are another shape to a compiler than one."""


class Loaded:
    """A model that is ready to score, and what it scored its probe at its start."""

    def __init__(self, config: ScorerConfig) -> None:
        self.scorer = Scorer(config)
        self._probe = pa.Table.from_pylist([PROBE])
        # Before the batcher's watch begins: compiling and cold caches are no measure of speed.
        self.scorer.score(self._probe)
        self.scorer.score(WARM_UP)
        self.batcher = Batcher(self.scorer)
        # A model that cannot score never becomes ready.
        self._known = self._read(self.scorer.score(self._probe))
        self._watchdog = Watchdog(self.batcher.progress)
        self._watchdog.start()

    async def check(self) -> None:
        """A real forward pass; raises if it does not give the score that it gave at the start.

        Behind a long shard the probe waits its turn, and Serve would kill a replica that works; one
        that hangs is the watchdog's.
        """
        try:
            probed = await asyncio.wait_for(self.batcher.score(self._probe), PROBE_TIMEOUT_S)
        except (TimeoutError, asyncio.TimeoutError):
            return
        found = self._read(probed)
        tolerance = PROBE_TOLERANCE.get(self.scorer.info.dtype, COARSE_TOLERANCE)
        if not abs(found - self._known) <= tolerance:
            raise EngineError(
                f"the replica scores its own probe {found:g}, and {self._known:g} at its start"
            )

    def _read(self, result: pa.Table) -> float:
        check_scores(result, 1)
        if error := result["error"][0].as_py():
            raise EngineError(f"the replica cannot score its own probe: {error}")
        return float(result["score"][0].as_py())

    def close(self) -> None:
        """Lets go of the model's memory."""
        self._watchdog.close()
        self.batcher.close()
        self.scorer.close()


class Replica:
    """Holds the model. Everything it knows of scoring is in `Scorer` and `Batcher`."""

    def __init__(self, config: ScorerConfig) -> None:
        check_environment(os.environ)
        self._config = config
        self._loaded: Loaded | None = None
        self._ready = asyncio.Event()
        self._swap = asyncio.Lock()
        self._metrics = EngineMetrics()
        self._reservation = Reservation()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Loads the model that `user_config` names, as Serve asks for at the start and whenever it
        changes: `{"model": DIR}`.

        What is at work is finished with the old model, which then makes room; what comes meanwhile
        waits here or goes to other replicas. Raises `ConfigError` for what cannot be loaded; Serve
        then ends this replica, and stops the update before it has reached all of them.
        """
        if user_config.keys() != {"model"}:
            raise ConfigError(f'user_config={user_config!r:.200}; it must be {{"model": DIR}}')
        try:
            config = ScorerConfig(**{**dict(self._config), **user_config})
        except ValidationError as error:
            raise explain(error) from None
        async with self._swap:
            if self._loaded is not None and config == self._config:
                return
            self._ready.clear()
            if (old := self._loaded) is not None:
                await old.batcher.idle()
                self._loaded = None
                old.close()
            self._loaded = await asyncio.to_thread(Loaded, config)
            self._config = config
            self._ready.set()

    async def score(
        self,
        shard: bytes | list[Awaitable[pa.Table]],
        *,
        replica: str,
        rank: int = 0,
        timeout_s: float = 600,
        trial: bool = False,
    ) -> bytes:
        """The result of a request table, which comes as a stream or as a list that holds a
        reference to it; the result is a stream.

        The reference comes inside a list so that Ray does not fetch the table before this replica
        has accepted the call. `replica` is who is meant, for `pool.routing`. Work that has not
        begun when `timeout_s` is over is dropped: nobody waits for it any more. `trial`: this
        replica is reserved for it.
        """
        try:
            result = await asyncio.wait_for(
                self._score(shard, rank, timeout_s, trial=trial), timeout_s
            )
        except (TimeoutError, asyncio.TimeoutError):
            raise DeadlineExceeded(f"the replica did not come to it in {timeout_s:.3g} s") from None
        return encode_arrow(result)

    async def _score(
        self,
        shard: bytes | list[Awaitable[pa.Table]],
        rank: int,
        timeout_s: float,
        *,
        trial: bool,
    ) -> pa.Table:
        until = time.monotonic() + timeout_s
        table = read_arrow(shard) if isinstance(shard, bytes) else await shard[0]
        async with self._reservation.work(trial=trial):
            while (loaded := self._serving) is None:
                await self._ready.wait()
            return await loaded.batcher.score(table, rank=rank, timeout_s=until - time.monotonic())

    async def reserve(self, *, replica: str) -> None:
        """Returns once this replica is at nothing else; then it waits a few seconds for a trial."""
        await self._reservation.reserve(self._drained)

    async def _drained(self) -> None:
        if (loaded := self._loaded) is not None:
            await loaded.batcher.idle()

    @property
    def _serving(self) -> Loaded | None:
        return self._loaded if self._ready.is_set() else None

    async def pulse(self, *, replica: str) -> dict[str, str] | None:
        """What this replica scores with, at once, whatever the engine is at; None while it loads a
        model."""
        return None if self._serving is None else self._serving.scorer.provenance

    async def check_health(self) -> None:
        """Scores a probe; see `Loaded.check`. A replica that loads a model is healthy."""
        if (loaded := self._serving) is not None:
            self._metrics.publish(loaded.scorer.counters)
            await loaded.check()

    def __del__(self) -> None:
        loaded: Loaded | None = getattr(self, "_loaded", None)
        if loaded is not None:
            loaded.close()
