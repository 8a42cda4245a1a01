"""Pools whose update or device fails: what served goes on, or what is lost is scored elsewhere."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.load import Account, Oracle, assert_exact, batch, by, run_load
from deploying import deploy
from processes import replica_pids

from polar_ray.client import connect
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.encoding import load_tokenizer
from polar_ray.pool.local import pool
from polar_ray.records import provenance

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

NAME = "updated"


def state() -> tuple[str, str]:
    """The application's status, by Serve, and what it says."""
    from ray import serve

    found = serve.status().applications[NAME]
    return found.status.value, found.message


def until(wanted: str) -> str:
    """Returns Serve's message when the application has this state."""
    while (now := state())[0] != wanted:
        time.sleep(0.1)
    return now[1]


def logged() -> str:
    """What the replicas of this pool have logged."""
    from ray._private import worker

    logs = Path(worker._global_node.get_session_dir_path()) / "logs" / "serve"
    return "".join(path.read_text() for path in logs.rglob(f"*{NAME}_Replica*.log"))


@pytest.fixture
def alone(cluster: None, tiny_dir: Path) -> Iterator[PoolConfig]:
    """A pool of one replica, as `serve deploy` starts it."""
    from ray import serve

    engine = StubEngineConfig(seconds_per_token=2e-6)
    config = PoolConfig(model=str(tiny_dir), num_cpus=0.1, engine=engine)
    deploy(NAME, config)
    try:
        until("RUNNING")
        yield config
    finally:
        serve.delete(NAME)


async def under_load(oracle: Oracle, change: Callable[[], None]) -> Account:
    """What callers got while something was changed."""
    over = asyncio.Event()
    load = asyncio.create_task(
        run_load(by(connect(app_name=NAME), 10), oracle, records=4000, until=over, callers=4)
    )
    await asyncio.to_thread(change)
    over.set()
    account = await load
    account.kills = 1
    return account


def test_a_bad_update_of_a_pool_with_one_replica_costs_nothing(
    alone: PoolConfig, tiny_dir: Path, other_dir: Path, tmp_path: Path, figure: Any
) -> None:
    [before] = replica_pids(NAME)
    broken = shutil.copytree(other_dir, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")

    def change() -> None:
        for bad in (tmp_path / "nowhere", broken):
            deploy(NAME, alone, user_config={"model": str(bad)})
            while f"no update to {{'model': '{bad}'}}" not in logged():
                time.sleep(0.1)
            until("RUNNING")

    account = asyncio.run(under_load(Oracle(tiny_dir), change))
    figure(account.summary())
    assert_exact(account, 4000)
    assert len(account.digests) == 1
    assert replica_pids(NAME) == [before]
    # A good one after it is taken, and nothing is lost either.
    swap(alone, other_dir)
    assert replica_pids(NAME) == [before]


def swap(config: PoolConfig, folder: Path) -> None:
    """Updates the pool and returns when it serves the new model."""
    deploy(NAME, config, user_config={"model": str(folder)})
    client, oracle, table = connect(app_name=NAME), Oracle(folder), batch(10_000, 8)
    while provenance(result := client.score_table(table))["model"] != f"stub of {folder.name}":
        time.sleep(0.1)
    account = Account()
    oracle.check(table, result, account)
    assert (account.rows, account.wrong, account.errors) == (8, 0, 0)


def test_bad_arguments_are_refused_before_what_runs_is_touched(
    alone: PoolConfig, tiny_dir: Path, tmp_path: Path
) -> None:
    [before] = replica_pids(NAME)
    bad = alone.model_copy(update={"model": str(tmp_path / "nowhere")})

    def change() -> None:
        deploy(NAME, bad)
        assert "nowhere' is not a directory" in until("DEPLOY_FAILED")

    account = asyncio.run(under_load(Oracle(tiny_dir), change))
    assert_exact(account, 4000)
    assert replica_pids(NAME) == [before]


def test_a_record_that_loses_a_device_is_reported_alone(cluster: None, tiny_dir: Path) -> None:
    from ray import serve

    [token] = load_tokenizer(tiny_dir).encode("\x07")
    engine = StubEngineConfig(lost_device_token=token)
    config = PoolConfig(model=str(tiny_dir), num_replicas=2, num_cpus=0.1, engine=engine)
    rows = batch(0, 64).to_pylist()
    rows[30]["output"] = "ring \x07"
    with pool(config, name=NAME, route_prefix="/updated"):
        client = connect(app_name=NAME)
        result = client.score_table(rows, timeout_s=120)
        deaths = serve.get_app_handle(NAME).stats.remote().result()["deaths"]
        assert client.score_table(batch(100, 8), timeout_s=60)["score"].null_count == 0
    errors = {i: text for i, text in enumerate(result["error"].to_pylist()) if text}
    assert list(errors) == [30]
    assert errors[30].startswith("poison: ")
    assert deaths <= 6
    assert "this replica ends: the stub's device is lost" in logged()
