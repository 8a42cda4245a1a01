"""Replica: one scorer on one device, as a Ray Serve deployment."""

import asyncio
import os

import pyarrow as pa

from polar_ray.config import ScorerConfig
from polar_ray.errors import DeadlineExceeded, EngineError
from polar_ray.pool.batcher import Batcher
from polar_ray.pool.metrics import EngineMetrics
from polar_ray.pool.settings import check_environment
from polar_ray.records import check_scores
from polar_ray.scorer import Scorer

PROBE = {"prompt": "1 + 1 =", "reference": "2", "output": "2"}
PROBE_TIMEOUT_S = 5.0
"""Well below the time after which Serve counts a health check as failed (`pool.settings`)."""

PROBE_TOLERANCE = {"float32": 1e-3}
"""How far the probe's score may be from that at the start. Neighbours in its pack change the last
digits; a damaged weight or device changes more."""

COARSE_TOLERANCE = 0.1
"""The same for all other number formats."""

STUCK_S = 600.0
"""A pack that runs longer will not end: minutes are enough for the largest model on a CPU."""


class Replica:
    """Holds the model. Everything it knows of scoring is in `Scorer` and `Batcher`."""

    def __init__(self, config: ScorerConfig) -> None:
        check_environment(os.environ)
        self._scorer = Scorer(config)
        self._batcher = Batcher(self._scorer)
        self._probe = pa.Table.from_pylist([PROBE])
        # A replica that cannot score never becomes ready.
        self._known = self._read(self._scorer.score(self._probe))
        self._metrics = EngineMetrics()

    async def score(
        self,
        shard: pa.Table | list[object],
        *,
        replica: str,
        rank: int = 0,
        timeout_s: float = 600,
    ) -> pa.Table:
        """The result table of a request table, or of a list that holds a reference to one.

        The reference comes inside a list so that Ray does not fetch the table before this replica
        has accepted the call. `replica` is who is meant, for `pool.routing`. Work that has not
        begun when `timeout_s` is over is dropped: nobody waits for it any more.
        """
        table = await shard[0] if isinstance(shard, list) else shard  # type: ignore[misc]
        scoring = self._batcher.score(table, rank=rank, timeout_s=timeout_s)
        try:
            return await asyncio.wait_for(scoring, timeout_s)
        except (TimeoutError, asyncio.TimeoutError):
            raise DeadlineExceeded(f"the replica did not come to it in {timeout_s:.3g} s") from None

    async def pulse(self, *, replica: str) -> None:
        """Returns at once, whatever the engine is at: this process is alive."""

    def record_replica_metadata(self) -> dict[str, str]:
        """What this replica scores with; Serve tells the routers."""
        return self._scorer.provenance

    async def check_health(self) -> None:
        """A real forward pass; raises if it does not give the score that it gave at the start.

        Behind a long shard the probe waits its turn, and Serve would kill a replica that works:
        there, packs that come to an end are proof enough.
        """
        self._metrics.publish(self._scorer.counters)
        try:
            probed = await asyncio.wait_for(self._batcher.score(self._probe), PROBE_TIMEOUT_S)
        except (TimeoutError, asyncio.TimeoutError):
            if (silent_s := self._batcher.silent_s()) > STUCK_S:
                raise EngineError(f"the engine is stuck in a pack since {silent_s:.0f} s") from None
        else:
            found = self._read(probed)
            tolerance = PROBE_TOLERANCE.get(self._scorer.info.dtype, COARSE_TOLERANCE)
            if not abs(found - self._known) <= tolerance:
                raise EngineError(
                    f"the replica scores its own probe {found:g}, and {self._known:g} at its start"
                )

    def _read(self, result: pa.Table) -> float:
        check_scores(result, 1)
        if error := result["error"][0].as_py():
            raise EngineError(f"the replica cannot score its own probe: {error}")
        return float(result["score"][0].as_py())

    def __del__(self) -> None:
        if hasattr(self, "_batcher"):
            self._batcher.close()
            self._scorer.close()
