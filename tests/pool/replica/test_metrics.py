"""Counters grow by what was done since they were last published."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from polar_ray.config import NativeEngineConfig, ScorerConfig
from polar_ray.pool.replica import metrics as module
from polar_ray.pool.replica.deployment import Replica
from polar_ray.pool.replica.metrics import EngineMetrics


class Recorder:
    """Stands in for a Ray counter."""

    seen: dict[str, list[float]]

    def __init__(self, name: str, description: str) -> None:
        assert description, f"say in DESCRIPTIONS what {name} counts"
        self.name = name

    def inc(self, value: float) -> None:
        self.seen.setdefault(self.name, []).append(value)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    monkeypatch.setattr(module.metrics, "Counter", Recorder)
    Recorder.seen = {}
    return Recorder.seen


def test_growth_is_published_once(seen: dict[str, list[float]]) -> None:
    engine = EngineMetrics()
    engine.publish({"packs": 3, "prefix_hits": 0})
    engine.publish({"packs": 3, "prefix_hits": 2})
    engine.publish({"packs": 10, "prefix_hits": 2})
    assert seen == {"polar_engine_packs": [3, 7], "polar_engine_prefix_hits": [2]}
    engine.publish({"packs": 4, "prefix_hits": 0})
    assert seen["polar_engine_packs"] == [3, 7, 4], "another model began at 0"


def test_a_replica_publishes_what_its_engine_did(
    seen: dict[str, list[float]], tiny_dir: Path
) -> None:
    engine = NativeEngineConfig(prefix_cache_bytes=1 << 20)

    async def main() -> None:
        replica = Replica(ScorerConfig(engine=engine))
        await replica.check_health()
        assert seen == {}, "nothing is loaded yet"
        await replica.reconfigure({"model": str(tiny_dir)})
        assert replica._loaded is not None
        counts = replica._loaded.scorer.counters
        assert counts["prefix_misses"] == 1
        known = counts["prefix_hits"]
        await replica.check_health()
        assert {f"polar_engine_{name}": [total] for name, total in counts.items() if total} == seen
        await replica.check_health()
        assert sum(seen["polar_engine_prefix_hits"]) == known + 1, "its probe"

    asyncio.run(main())
