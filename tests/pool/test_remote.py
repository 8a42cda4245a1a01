"""A pool in front of servers: its scores are theirs, and while they are away it says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from model_server import Server, serving
from sample_records import GROUPS

from polar_ray.client import connect
from polar_ray.config import NativeEngineConfig, PoolConfig, RemoteEngineConfig, ScorerConfig
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.questions import alone
from polar_ray.errors import DeadlineExceeded
from polar_ray.pool.local import pool
from polar_ray.scorer import Scorer

pytestmark = pytest.mark.ray

RECORDS = [{**record, "output": f"{record['output']} {i}"} for i in range(8) for record in GROUPS]


@pytest.fixture(scope="module")
def servers(tiny_dir: Path) -> list[Server]:
    engine = NativeEngine(NativeEngineConfig(), tiny_dir)
    return [Server("vllm", tiny_dir, alone(engine)) for _ in range(2)]


@pytest.fixture(scope="module")
def url(cluster: None, tiny_dir: Path, servers: list[Server]) -> Iterator[str]:
    with ExitStack() as stack:
        addresses = tuple(stack.enter_context(serving(server)) for server in servers)
        engine = RemoteEngineConfig(server="vllm", addresses=addresses, patience_s=1)
        config = PoolConfig(model=str(tiny_dir), engine=engine, num_cpus=0.1, num_replicas=2)
        yield stack.enter_context(pool(config, name="remote", route_prefix="/remote"))


def test_a_pool_in_front_of_servers_scores_as_they_do(
    url: str, servers: list[Server], tiny_dir: Path
) -> None:
    truth = Scorer(ScorerConfig(model=str(tiny_dir))).score(RECORDS)["score"].to_pylist()
    with connect(address=url) as client:
        assert np.abs(np.array(client.score(RECORDS)) - truth).max() <= 1e-5
    assert all(server.bodies for server in servers)


def test_while_its_servers_are_away_a_pool_is_not_ready(url: str, servers: list[Server]) -> None:
    def away(handler: object, body: object) -> bool:
        return True

    with connect(address=url) as client:
        before = client.score(RECORDS)
        for server in servers:
            server.misbehave = away
        with pytest.raises(DeadlineExceeded, match=r"waits? for servers") as late:
            client.score(RECORDS, timeout_s=8)
        assert "no server can be used: http://127.0.0.1" in str(late.value)
        answer = httpx.get(f"{url}/ready", timeout=30)
        assert answer.status_code == 503
        assert "for servers" in answer.text
        for server in servers:
            server.misbehave = None
        assert np.abs(np.array(client.score(RECORDS, timeout_s=120)) - before).max() <= 1e-5
    assert httpx.get(f"{url}/ready", timeout=30).status_code == 200
