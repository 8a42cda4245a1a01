"""A loaded model: a scorer, its batcher and watchdog, and the probe that tells whether it works."""

from __future__ import annotations

import asyncio

import pyarrow as pa

from polar_ray.config import ScorerConfig
from polar_ray.engine import Engine
from polar_ray.engine.protocol import waits_for
from polar_ray.errors import DeviceLost, EngineError, ServersAway
from polar_ray.pool.replica.batcher import Batcher
from polar_ray.pool.replica.watchdog import Watchdog
from polar_ray.scorer import Scorer

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

    def __init__(self, config: ScorerConfig, *, in_place_of: Engine | None = None) -> None:
        """`in_place_of`: see `build_engine`."""
        self.scorer = Scorer(config, in_place_of=in_place_of)
        self.engine = self.scorer.engine
        self._probe = pa.Table.from_pylist([PROBE])
        try:
            # Before the batcher's watch begins: compiling and cold caches are no measure of speed.
            self.scorer.score(self._probe)
            self.scorer.score(WARM_UP)
            self.batcher = Batcher(self.scorer)
            # A model that cannot score never becomes ready.
            self._known = self._read(self.scorer.score(self._probe))
        except BaseException:
            # Another is loaded in this process next, and ranks cannot be two at once.
            self.scorer.close()
            raise
        self._watchdog = Watchdog(self.batcher.progress)
        self._watchdog.start()

    async def check(self) -> None:
        """A real forward pass; raises if it does not give the score that it gave at the start.

        Behind a long shard the probe waits its turn, and Serve would kill a replica that works; one
        that hangs is the watchdog's.
        """
        try:
            probed = await asyncio.wait_for(self.batcher.score(self._probe), PROBE_TIMEOUT_S)
        except (TimeoutError, asyncio.TimeoutError, ServersAway):
            return  # another process would find the same servers
        found = self._read(probed)
        tolerance = PROBE_TOLERANCE.get(self.scorer.info.dtype, COARSE_TOLERANCE)
        if not abs(found - self._known) <= tolerance:
            raise EngineError(
                f"the replica scores its own probe {found:g}, and {self._known:g} at its start"
            )

    @property
    def waits_for(self) -> str | None:
        """Why nothing can be scored at present; None if it can."""
        return waits_for(self.scorer.engine)

    def _read(self, result: pa.Table) -> float:
        if error := result["error"][0].as_py():
            raise EngineError(f"the replica cannot score its own probe: {error}")
        return float(result["score"][0].as_py())

    def stop(self) -> None:
        """Ends what uses the engine, which may go on with another model."""
        self._watchdog.close()
        self.batcher.close()

    def close(self) -> None:
        """Lets go of the model's memory."""
        self.stop()
        self.scorer.close()


def try_to_load(config: ScorerConfig, in_place_of: Engine | None = None) -> Loaded | str:
    """A model, or why there is none: in words, because an error keeps the frames in which parts of
    the model still stand. A lost device is raised."""
    try:
        return Loaded(config, in_place_of=in_place_of)
    except DeviceLost:
        raise
    except Exception as error:  # whatever it is, the model before must come back
        return describe(error)


def describe(error: Exception) -> str:
    """An error in one line, without the frames that it keeps."""
    return f"{type(error).__name__}: {error}"
