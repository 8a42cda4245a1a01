"""Pools on the local cluster: same scores as one scorer, in order, and no call that hangs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoints import make_checkpoint, without_numbers
from processes import replica_pids
from sample_records import BAD_ROWS, GROUPS
from typer.testing import CliRunner

from polar_ray.cli import cli
from polar_ray.client import Client, connect
from polar_ray.client.handle import HandleTransport
from polar_ray.client.http import HttpTransport
from polar_ray.config import HttpConfig, PoolConfig, ScorerConfig, StubEngineConfig
from polar_ray.errors import (
    AuthError,
    ConfigError,
    DeadlineExceeded,
    PoolError,
    RecordError,
    ScoreError,
)
from polar_ray.pool.local import pool
from polar_ray.records import check_scores, provenance
from polar_ray.scorer import Scorer

pytestmark = pytest.mark.ray

BATCH = [{**record, "output": f"{record['output']} {i}"} for i in range(20) for record in GROUPS]


@pytest.fixture(scope="module")
def url(cluster: None, tiny_dir: Path) -> Iterator[str]:
    """A pool of two routers and two replicas with the native engine, small shards."""
    config = PoolConfig(
        model=str(tiny_dir), num_replicas=2, num_routers=2, num_cpus=0.1, min_shard_bytes=64
    )
    with pool(config, name="native") as address:
        yield address


@pytest.fixture(scope="module")
def handle(url: str) -> Client:
    return connect(app_name="native")


@pytest.fixture(scope="module")
def web(url: str) -> Iterator[Client]:
    with connect(address=url) as client:
        yield client


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    """Equal rows; scores to float32 rounding, as packs differ."""
    check_scores(found, expected.num_rows)
    at = found.column_names.index("score")
    assert found.remove_column(at).equals(expected.remove_column(at))
    np.testing.assert_allclose(
        found["score"].to_numpy(), expected["score"].to_numpy(), atol=1e-5, equal_nan=True
    )


def test_both_ways_in_give_the_scorers_rows(handle: Client, web: Client, scorer: Scorer) -> None:
    expected = scorer.score(BATCH)
    assert np.ptp(expected["score"].to_numpy()) > 0.1
    for client in (handle, web):
        found = client.score_table(BATCH)
        assert_same(found, expected)
        assert provenance(found) == provenance(expected)


def test_event_loops_and_tables_and_references(handle: Client, web: Client, scorer: Scorer) -> None:
    import ray

    expected = scorer.score(BATCH)
    table = pa.Table.from_pylist(BATCH)

    async def both() -> list[pa.Table]:
        calls = [client.score_table_async(table) for client in (handle, web)]
        return list(await asyncio.gather(*calls))

    for found in asyncio.run(both()):
        assert_same(found, expected)
    assert_same(handle.score_table(ray.put(table)), expected)
    assert_same(handle.score_table(ray.put(BATCH)), expected)


def test_many_callers_at_once_get_their_own_rows(handle: Client, scorer: Scorer) -> None:
    batches = [BATCH[i::12] for i in range(12)]

    async def all_at_once() -> list[pa.Table]:
        return list(await asyncio.gather(*(handle.score_table_async(b) for b in batches)))

    for found, batch in zip(asyncio.run(all_at_once()), batches, strict=True):
        assert_same(found, scorer.score(batch))


def test_actors_score_through_a_plain_handle(url: str, scorer: Scorer) -> None:
    import ray
    from ray import serve

    @ray.remote(num_cpus=0)
    class Worker:
        def rewards(self, batch: list[dict[str, Any]]) -> pa.Table:
            score = serve.get_app_handle("native").score
            return score.remote(batch, timeout_s=60).result()

    assert_same(ray.get(Worker.remote().rewards.remote(BATCH)), scorer.score(BATCH))


def test_bad_rows_are_data_by_every_way(handle: Client, web: Client, scorer: Scorer) -> None:
    mixed = [row for row, _ in BAD_ROWS] + GROUPS
    for client in (handle, web):
        found = client.score_table(mixed)
        assert_same(found, scorer.score(mixed))
        with pytest.raises(ScoreError, match="row 0: not_an_object"):
            client.score(mixed)
        values = client.score(mixed, on_error="none")
        assert values[: len(BAD_ROWS)] == [None] * len(BAD_ROWS)
        assert None not in values[len(BAD_ROWS) :]
        assert np.isnan(client.score(mixed, on_error="nan")[0])


def test_bad_batches_raise_and_the_next_is_served(handle: Client, web: Client) -> None:
    import ray

    for client in (handle, web):
        with pytest.raises(RecordError, match="ids must all be strings"):
            client.score([{"prompt": "p", "id": 1.5}])
        with pytest.raises(RecordError, match="missing column"):
            client.score(pa.table({"prompt": ["p"]}))
        assert client.score([]) == []
        assert len(client.score(GROUPS)) == len(GROUPS)
    with pytest.raises(RecordError, match="missing column"):
        handle.score(ray.put(pa.table({"prompt": ["p"]})))  # type: ignore[arg-type]


def test_a_reference_that_failed_or_comes_late_is_an_error_of_the_pool(handle: Client) -> None:
    import ray

    @ray.remote(num_cpus=0)
    def broken() -> None:
        raise ValueError("upstream broke")

    with pytest.raises(PoolError, match="ValueError: upstream broke"):
        handle.score(broken.remote())  # type: ignore[arg-type]

    async def within_a_loop() -> None:
        with pytest.raises(PoolError, match="await score_async"):
            handle.score(GROUPS)
        with pytest.raises(PoolError, match="upstream broke"):
            await handle.score_async(broken.remote())  # type: ignore[arg-type]

    asyncio.run(within_a_loop())
    assert len(handle.score(GROUPS)) == len(GROUPS)


def test_a_field_of_50_mb_is_refused_and_the_next_request_served(
    handle: Client, web: Client, url: str
) -> None:
    huge = [{**GROUPS[0], "output": "x" * 50_000_000}, GROUPS[1]]
    for client in (handle, web):
        first, second = client.score_table(huge).to_pylist()
        assert first["error"].startswith("field_too_large: output has 50000000 bytes")
        assert second["score"] is not None
    body = b'{"records": [' + b" " * (64 << 20) + b"]}"
    answer = httpx.post(url + "/score", content=body, timeout=60)
    assert answer.status_code == 413
    assert len(web.score(GROUPS)) == len(GROUPS)


def test_the_pages_answer(url: str, scorer: Scorer) -> None:
    assert httpx.get(url + "/health").json() == {"status": "alive"}
    waiting = "the pool's 2 replicas wait for calls"
    assert httpx.get(url + "/ready").json() == {"status": "ready", "waiting": waiting}
    for transport in (HttpTransport(url), HandleTransport("native")):
        assert transport.why_waiting() == waiting
    [model] = httpx.get(url + "/v1/models").json()["data"]
    assert model["model_digest"] == scorer.info.digest
    assert httpx.get(url + "/docs").status_code == 200


def test_the_command_line_scores_on_a_pool(url: str, tmp_path: Path, scorer: Scorer) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in BATCH))
    output = tmp_path / "out.parquet"
    done = CliRunner().invoke(
        cli, ["score", str(source), "--address", url, "--output", str(output)]
    )
    assert done.exit_code == 0, done.output
    assert_same(pq.read_table(output), scorer.score(BATCH))


def test_a_second_pool_that_cannot_fit_is_refused_at_once(cluster: None) -> None:
    from polar_ray.pool.app import start

    with pytest.raises(ConfigError, match="lower num_replicas"):
        start(PoolConfig(num_replicas=1000), name="huge")


def test_a_pool_that_cannot_load_says_why(cluster: None, tmp_path: Path) -> None:
    from polar_ray.pool.app import start

    broken = {"name": "broken", "route_prefix": "/broken"}
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        start(PoolConfig(model=str(tmp_path), num_cpus=0.1), **broken)
    without_numbers(make_checkpoint(tmp_path))
    with pytest.raises(PoolError, match=r"did not start: EngineError: .* score its own probe"):
        start(PoolConfig(model=str(tmp_path), num_cpus=0.1), **broken)


def test_a_route_that_is_taken_is_a_clear_error(url: str) -> None:
    from polar_ray.pool.app import start

    with pytest.raises(
        ConfigError, match=r"Prefix / is being used.*route_prefix=/twin \(--route-prefix\)"
    ):
        start(PoolConfig(num_cpus=0.1), name="twin")


def test_a_name_that_is_taken_is_a_clear_error_and_its_pool_lives_on(url: str, web: Client) -> None:
    taken = pytest.raises(ConfigError, match="has a Serve application 'native' already")
    with taken, pool(PoolConfig(num_cpus=0.1), name="native", route_prefix="/other"):
        pass
    assert len(web.score(GROUPS)) == len(GROUPS)


def test_no_such_pool_is_a_clear_error(cluster: None) -> None:
    with pytest.raises(PoolError, match="no Serve application 'absent'"):
        connect(app_name="absent")
    with (
        pytest.raises(PoolError, match="cannot reach"),
        connect(address="http://127.0.0.1:9") as client,
    ):
        client.score(GROUPS)


@pytest.fixture
def slow(cluster: None, tiny_dir: Path) -> Iterator[str]:
    """A pool whose one replica takes minutes for a batch."""
    config = PoolConfig(
        model=str(tiny_dir),
        num_cpus=0.1,
        engine=StubEngineConfig(seconds_per_token=0.1),
        max_tokens=16,
    )
    with pool(config, name="slow", route_prefix="/slow") as address:
        yield address


def test_deadlines_end_in_clear_errors_and_the_next_call_is_served(slow: str) -> None:
    handle = connect(app_name="slow")
    with connect(address=slow) as web:
        for client in (handle, web):
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded, match="within"):
                client.score(BATCH, timeout_s=0.5)
            assert time.monotonic() - started < 5, "the deadline was 0.5 s"
            assert client.score(GROUPS[:1], timeout_s=60), "its work has ended with the call"


def test_a_call_outlives_its_replica_and_http_asks_for_a_token(
    cluster: None, tiny_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("secret\n")
    config = PoolConfig(
        model=str(tiny_dir),
        num_replicas=2,
        num_cpus=0.1,
        engine=StubEngineConfig(seconds_per_token=0.0005),
        max_tokens=256,
        http=HttpConfig(token_file=str(tmp_path / "tokens")),
    )
    stub = Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig(), max_tokens=256))
    with pool(config, name="mortal", route_prefix="/mortal") as address:
        with connect(address=address, token="secret") as web:
            assert_same(web.score_table(GROUPS), stub.score(GROUPS))
        for wrong in (None, "guess"):
            with connect(address=address, token=wrong) as web, pytest.raises(AuthError):
                web.score(GROUPS)
        assert httpx.get(address + "/ready").status_code == 200
        client = connect(app_name="mortal")
        for victim in range(2):
            # The first time one of two, the second time what has come up since then.
            while len(pids := replica_pids("mortal")) <= victim:
                time.sleep(0.1)
            killer = threading.Timer(1.0, os.kill, (pids[victim], signal.SIGKILL))
            killer.start()
            assert_same(client.score_table(BATCH, timeout_s=120), stub.score(BATCH))
            killer.join()
