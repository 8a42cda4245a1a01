"""Replica: one scorer on one device, as a Ray Serve deployment."""

import asyncio
from typing import Any

import pyarrow as pa

from polar_ray.config import ScorerConfig
from polar_ray.errors import EngineError
from polar_ray.pool.batcher import Batcher
from polar_ray.records import check_scores
from polar_ray.scorer import Scorer

PROBE = {"prompt": "1 + 1 =", "reference": "2", "output": "2"}
PROBE_TIMEOUT_S = 10.0
"""Well below the 30 s after which Serve counts a health check as failed."""

STUCK_S = 600.0
"""A pack that runs longer will not end: minutes are enough for the largest model on a CPU."""


class Replica:
    """Holds the model. Everything it knows of scoring is in `Scorer` and `Batcher`."""

    def __init__(self, config: ScorerConfig) -> None:
        self._scorer = Scorer(config)
        self._batcher = Batcher(self._scorer)
        self._probe = pa.Table.from_pylist([PROBE])
        # A replica that cannot score never becomes ready.
        self._check(self._scorer.score(self._probe))

    async def score(self, shard: list[Any]) -> pa.Table:
        """The result table of `shard[0]`, a reference to a request table.

        The reference comes inside a list so that Ray does not fetch the table before this replica
        has accepted the call.
        """
        table = await shard[0]
        return await self._batcher.score(table)

    async def info(self) -> dict[str, str]:
        """What this replica scores with."""
        return self._scorer.provenance

    async def check_health(self) -> None:
        """A real forward pass; raises if it gives no score.

        Behind a long shard the probe waits its turn, and Serve would kill a replica that works:
        there, packs that come to an end are proof enough.
        """
        try:
            probed = await asyncio.wait_for(self._batcher.score(self._probe), PROBE_TIMEOUT_S)
        except (TimeoutError, asyncio.TimeoutError):
            if (silent_s := self._batcher.silent_s()) > STUCK_S:
                raise EngineError(f"the engine is stuck in a pack since {silent_s:.0f} s") from None
        else:
            self._check(probed)

    def _check(self, result: pa.Table) -> None:
        check_scores(result, 1)
        if error := result["error"][0].as_py():
            raise EngineError(f"the replica cannot score its own probe: {error}")

    def __del__(self) -> None:
        if hasattr(self, "_batcher"):
            self._batcher.close()
            self._scorer.close()
