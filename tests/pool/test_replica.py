"""A replica's health: busy is healthy, stuck and broken are not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from examples import GROUPS

from polar_ray.config import ScorerConfig, StubEngineConfig
from polar_ray.engine.protocol import Done, Pending
from polar_ray.errors import EngineError
from polar_ray.planning import Pack
from polar_ray.pool import replica as module
from polar_ray.pool.replica import Replica

TABLE = pa.Table.from_pylist(GROUPS)


class Gate:
    """Holds back a replica's packs until it is opened."""

    def __init__(self, replica: Replica) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        engine = replica._scorer.engine
        self._submit = engine.submit
        engine.submit = self.submit  # type: ignore[method-assign]

    def submit(self, pack: Pack) -> Pending:
        self.reached.set()
        assert self.opened.wait(30)
        return self._submit(pack)


@pytest.fixture
def replica(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    monkeypatch.setattr(module, "PROBE_TIMEOUT_S", 0.01)
    return Replica(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig()))


@pytest.fixture
def gate(replica: Replica) -> Iterator[Gate]:
    gate = Gate(replica)
    yield gate
    gate.opened.set()


def test_a_replica_behind_long_work_is_healthy(replica: Replica, gate: Gate) -> None:
    async def main() -> pa.Table:
        work = asyncio.create_task(replica._batcher.score(TABLE))
        await asyncio.to_thread(gate.reached.wait, 30)
        await replica.check_health()
        gate.opened.set()
        return await work

    assert asyncio.run(main())["score"].null_count == 0


def test_a_replica_whose_pack_never_ends_is_not(
    replica: Replica, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STUCK_S", 0.0)

    async def main() -> None:
        work = asyncio.create_task(replica._batcher.score(TABLE))
        await asyncio.to_thread(gate.reached.wait, 30)
        with pytest.raises(EngineError, match="stuck in a pack"):
            await replica.check_health()
        gate.opened.set()
        await work

    asyncio.run(main())


def test_a_replica_without_a_finite_score_is_not(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBE_TIMEOUT_S", 30.0)
    asyncio.run(replica.check_health())
    nothing = Done(np.array([np.nan], np.float32))
    replica._scorer.engine.submit = lambda pack: nothing  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="nonfinite_score"):
        asyncio.run(replica.check_health())
