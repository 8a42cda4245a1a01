"""Where tables enter trust: each is checked once there, and nowhere behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from sample_records import GROUPS

from polar_ray import records
from polar_ray import scorer as scorer_module
from polar_ray.config import PoolConfig, ScorerConfig
from polar_ray.errors import RecordError
from polar_ray.pool.replica.batcher import Batcher
from polar_ray.pool.router import running, work
from polar_ray.pool.router.deployment import Router
from polar_ray.scorer import Scorer
from polar_ray.stream import encode_arrow, read_arrow

TABLE = pa.Table.from_pylist(GROUPS)
BROKEN = pa.table({**TABLE.to_pydict(), "output": pa.array([b"\xff"] * len(GROUPS)).view("string")})


class ReplicaInProcess:
    """The handle of a deployment with one replica, which is a batcher in this process."""

    def __init__(self, scorer: Scorer) -> None:
        self.batcher = Batcher(scorer)
        self.num_shards = 0
        self.app_name = f"in process {id(self)}"
        self._provenance = scorer.provenance
        running.publish(self.app_name, ["r0"])

    def options(self, *, method_name: str = "", **options: Any) -> Any:
        """The same handle, or one of its methods."""
        if not method_name:
            return self
        method = {"score": self._score, "heartbeat": self._heartbeat}[method_name]
        return SimpleNamespace(remote=lambda *given, **named: asyncio.ensure_future(method(*given)))

    async def _score(self, shard: bytes) -> bytes:
        self.num_shards += 1
        return encode_arrow(await self.batcher.score(read_arrow(shard)))

    async def _heartbeat(self) -> dict[str, str]:
        return self._provenance


Count = Callable[..., list[object]]


@pytest.fixture
def scorer(tiny_dir: Path) -> Scorer:
    """One of this test's own: a batcher puts a watch around its engine."""
    return Scorer(ScorerConfig(model=str(tiny_dir), max_tokens=256))


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Keeps what a function is called with, wherever its callers have imported it."""

    def counting(function: Any, *modules: Any) -> list[object]:
        seen = list[object]()

        def counted(table: pa.Table, *more: Any) -> Any:
            seen.append(table)
            return function(table, *more)

        for module in modules:
            monkeypatch.setattr(module, function.__name__, counted)
        return seen

    return counting


def through_a_router(scorer: Scorer, table: pa.Table) -> tuple[pa.Table, int]:
    """What a router with one replica makes of a table, and how many shards it sent."""

    async def main() -> tuple[pa.Table, int]:
        replica = ReplicaInProcess(scorer)
        try:
            result = await Router(PoolConfig(), replica).score(table, 60)
        finally:
            replica.batcher.close()
        return result, replica.num_shards

    return asyncio.run(main())


def test_a_scorer_checks_what_it_is_given_once(scorer: Scorer, count: Count) -> None:
    checked = count(records.check_table, records, scorer_module)
    scorer.score(TABLE)
    assert checked == [TABLE]
    scorer.encode(TABLE)
    assert checked == [TABLE, TABLE]


def test_a_pool_checks_requests_at_the_router_and_results_on_their_way_back(
    scorer: Scorer, count: Count
) -> None:
    requests = count(records.check_table, records, scorer_module)
    results = count(work.check_scores, work)
    found, shards = through_a_router(scorer, TABLE)
    assert found.num_rows == len(GROUPS)
    assert (requests, len(results)) == ([TABLE], shards)


def test_a_broken_table_goes_no_further_than_the_border(scorer: Scorer, count: Count) -> None:
    encoded = count(scorer.encoder.encode, scorer.encoder)
    with pytest.raises(RecordError, match="does not validate"):
        scorer.score(BROKEN)
    with pytest.raises(RecordError, match="does not validate"):
        through_a_router(scorer, BROKEN)
    assert encoded == []
