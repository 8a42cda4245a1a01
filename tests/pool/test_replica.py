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
from polar_ray.errors import DeadlineExceeded, EngineError
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


@pytest.mark.parametrize(
    ("score", "message"), [(np.nan, "nonfinite_score"), (5.0, "scores its own probe 5")]
)
def test_a_replica_that_scores_its_probe_otherwise_than_at_its_start_is_not(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, score: float, message: str
) -> None:
    monkeypatch.setattr(module, "PROBE_TIMEOUT_S", 30.0)
    asyncio.run(replica.check_health())
    wrong = Done(np.array([score], np.float32))
    replica._scorer.engine.submit = lambda pack: wrong  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=message):
        asyncio.run(replica.check_health())


def test_work_whose_deadline_has_passed_is_left(replica: Replica, gate: Gate) -> None:
    async def main() -> None:
        with pytest.raises(DeadlineExceeded, match="did not come to it"):
            await replica.score(TABLE, replica="r", timeout_s=0.01)
        gate.opened.set()
        assert (await replica.score(TABLE, replica="r", timeout_s=60)).num_rows == len(GROUPS)

    asyncio.run(main())
