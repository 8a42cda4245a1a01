"""A replica whose servers are away: it says so, hands its work back, and is healthy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sample_records import GROUPS

from polar_ray.config import ScorerConfig, StubEngineConfig
from polar_ray.engine.protocol import Pending, Reliant, waits_for
from polar_ray.engine.stub import StubEngine
from polar_ray.errors import ServersAway
from polar_ray.planning import Pack
from polar_ray.pool.replica.away import with_reason, without_reason
from polar_ray.pool.replica.deployment import Replica
from polar_ray.stream import encode_arrow, read_arrow

TABLE = pa.Table.from_pylist(GROUPS)


class Client(StubEngine):
    """Relies on servers that a test takes away."""

    away: str | None = None

    @property
    def waits_for(self) -> str | None:
        return self.away

    def submit(self, pack: Pack) -> Pending:
        if self.away is not None:
            raise ServersAway(self.away)
        return super().submit(pack)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    made: list[Client] = []

    def build(config: Any, folder: Path, **more: Any) -> Client:
        made.append(Client(config, folder))
        return made[-1]

    monkeypatch.setattr("polar_ray.scorer.build_engine", build)
    return made


def test_a_replica_says_that_its_servers_are_away(tiny_dir: Path, engine: list[Client]) -> None:
    async def main() -> None:
        replica = Replica(ScorerConfig(engine=StubEngineConfig()))
        await replica.reconfigure({"model": str(tiny_dir)})
        served = await replica.heartbeat()
        assert served is not None
        assert without_reason(served) == (served, None)
        engine[0].away = "no server can be used: http://a: gone"
        said = await replica.heartbeat()
        assert said is not None
        assert without_reason(said) == (served, engine[0].away)
        await replica.check_health()  # another process would find the same servers
        with pytest.raises(ServersAway, match="gone"):
            await replica.score(encode_arrow(TABLE))
        engine[0].away = None
        assert await replica.heartbeat() == served
        result = read_arrow(await replica.score(encode_arrow(TABLE)))
        assert result["score"].null_count == 0

    asyncio.run(main())


def test_the_watchdog_leaves_an_engine_alone_that_waits_for_others(
    tiny_dir: Path, engine: list[Client]
) -> None:
    from polar_ray.pool.replica.progress import WatchedEngine, forward_progress

    config = StubEngineConfig()
    own, client = forward_progress(), forward_progress()
    watched = {
        own: WatchedEngine(StubEngine(config, tiny_dir), own),
        client: WatchedEngine(Client(config, tiny_dir), client),
    }
    for progress, engine_ in watched.items():
        engine_.submit(_pack())
        hangs = any(progress.tick(100.0) for _ in range(10))
        assert hangs is (progress is own)


def test_only_engines_that_rely_on_others_wait_for_them(tiny_dir: Path) -> None:
    stub = StubEngine(StubEngineConfig(), tiny_dir)
    assert not isinstance(stub, Reliant)
    assert waits_for(stub) is None
    assert with_reason({"engine": "stub"}, None) == {"engine": "stub"}


def _pack() -> Pack:
    import numpy as np

    from polar_ray.planning import build_pack

    return build_pack([np.arange(4, dtype=np.int32)], [-1], [0])
