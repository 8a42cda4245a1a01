"""Replicas die, stop, are replaced and poisoned under load: every record is answered once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from chaos.load import (
    CALLERS,
    Account,
    Call,
    Oracle,
    assert_exact,
    batch,
    by,
    hit,
    let_go,
    run_load,
    stub_config,
    stub_pool,
)
from chaos.observe import GUARD_S
from deploying import deploy
from processes import replica_pids

from polar_ray.client import connect
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.encoding import load_tokenizer
from polar_ray.errors import ReplicaLost
from polar_ray.stream import encode_arrow, read_arrow

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]

NAME = "fire"
RECORDS = int(os.environ.get("CHAOS_RECORDS", "100000"))
Figure = Callable[[str], None]


async def under_fire(call: Call, oracle: Oracle, what: signal.Signals, *, records: int) -> Account:
    """A load while replicas are hit, ten times at least, and each time after two more calls of each
    caller; they are let go on at the end."""
    hits: list[int] = []
    enough = asyncio.Event()
    account = Account()
    hitting = asyncio.create_task(
        hit(NAME, what, hits, enough, 2 * CALLERS, account, random.Random(1))
    )
    try:
        load = asyncio.create_task(
            run_load(call, oracle, records=records, until=enough, account=account)
        )
        await asyncio.wait([load, hitting], return_when=asyncio.FIRST_COMPLETED)
        if hitting.done():
            load.cancel()
            await hitting  # why it stopped
        await load
    finally:
        hitting.cancel()
        for pid in set(hits):
            let_go(NAME, pid)
    account.kills = len(hits)
    return account


def test_a_killed_replica_loses_nothing(url: str, tiny_dir: Path, figure: Figure) -> None:
    fire = under_fire(by(connect(app_name=NAME)), Oracle(tiny_dir), signal.SIGKILL, records=RECORDS)
    account = asyncio.run(fire)
    figure(account.summary())
    assert_exact(account, RECORDS)


def test_without_this_router_the_same_fire_loses_records(
    url: str, tiny_dir: Path, figure: Figure
) -> None:
    """The control: plain calls of the replicas' deployment through Serve."""
    from ray import serve

    from polar_ray.pool.ray_internals import by_reference
    from polar_ray.pool.router import running

    names: list[str] = []
    running.watch(NAME, lambda found: names.__setitem__(slice(None), found))
    replicas = by_reference(serve.get_deployment_handle("Replica", NAME))
    chance = random.Random(2)

    async def call(table: pa.Table) -> pa.Table:
        try:
            name = chance.choice(names) if names else "nobody yet"
            shard = encode_arrow(table.drop_columns(["id"]))
            score = replicas.options(method_name="score", session_id=name)
            result = read_arrow(await asyncio.wait_for(score.remote(shard), 30))
        except Exception as error:
            await asyncio.sleep(0.1)  # or the callers would use up all records at once
            raise ReplicaLost(str(error)) from None
        return result.add_column(0, "id", table["id"])

    fire = under_fire(call, Oracle(tiny_dir), signal.SIGKILL, records=RECORDS // 2)
    account = asyncio.run(fire)
    figure(account.summary())
    assert account.kills > 0
    assert account.rows > 0
    assert account.lost > 0
    assert account.wrong == 0


def test_a_stopped_replica_loses_nothing(url: str, tiny_dir: Path, figure: Figure) -> None:
    fire = under_fire(by(connect(app_name=NAME)), Oracle(tiny_dir), signal.SIGSTOP, records=RECORDS)
    account = asyncio.run(fire)
    figure(account.summary())
    assert_exact(account, RECORDS)


def test_one_record_of_4096_that_kills_is_reported_alone(
    cluster: None, tiny_dir: Path, model: str, figure: Figure
) -> None:
    from ray import serve

    [fatal] = load_tokenizer(tiny_dir).encode("\x07")
    engine = StubEngineConfig(fatal_token=fatal)
    rows = batch(0, 4096).to_pylist()
    rows[1234]["output"] = "ring \x07"
    began = time.monotonic()
    with stub_pool(NAME, model, engine=engine):
        client = connect(app_name=NAME)
        result = client.score_table(rows, timeout_s=2 * GUARD_S)
        took = time.monotonic() - began
        deaths = serve.get_app_handle(NAME).stats.remote().result()["deaths"]
        figure(f"{deaths} deaths, {took:.0f} s with the pool's start")
        errors = {i: text for i, text in enumerate(result["error"].to_pylist()) if text}
        assert list(errors) == [1234]
        assert errors[1234].startswith("poison: ")
        rows[1234]["output"] = "harmless"
        account = Account()
        del rows[1234]
        good = pa.concat_tables([result.slice(0, 1234), result.slice(1235)])
        Oracle(tiny_dir).check(pa.Table.from_pylist(rows), good, account)
        assert (account.rows, account.wrong, account.errors) == (4095, 0, 0)
        assert deaths <= 5
        assert client.score_table(batch(9000, 10), timeout_s=GUARD_S)["score"].null_count == 0


async def under_change(oracle: Oracle, changes: list[Callable[[], None]], records: int) -> Account:
    """Load while one change after the other is made, each in its own time."""
    over = asyncio.Event()

    async def change() -> None:
        for make in changes:
            await asyncio.to_thread(make)
        over.set()

    load = run_load(by(connect(app_name=NAME)), oracle, records=records, until=over)
    account, _ = await asyncio.gather(load, change())
    account.kills = len(changes)
    return account


def run_with(config: PoolConfig) -> Callable[[], None]:
    """What `serve run` does with these settings."""
    from ray import serve

    from polar_ray.pool.app import app

    return lambda: serve.run(app(config), name=NAME, route_prefix=f"/{NAME}") and None


def test_updates_and_scaling_lose_nothing_and_mix_no_models(
    cluster: None, tiny_dir: Path, model: str, figure: Figure
) -> None:
    updates = int(os.environ.get("CHAOS_UPDATES", "10"))
    changes = [{"engine": StubEngineConfig(salt=n % 2)} for n in range(1, updates + 1)]
    changes += [{"num_replicas": n} for n in (1, 3)]
    deploys = [run_with(stub_config(model, **change)) for change in changes]
    with stub_pool(NAME, model):
        account = asyncio.run(under_change(Oracle(tiny_dir, salts=(0, 1)), deploys, 10_000))
    figure(account.summary() + f"; models seen: {sorted(account.digests)}")
    assert len(account.digests) == 2
    assert_exact(account, 10_000)


def test_new_weights_are_loaded_in_place_and_nothing_is_lost(
    cluster: None, tiny_dir: Path, other_dir: Path, figure: Figure
) -> None:
    """`serve deploy` of a file in which only `user_config` has changed."""
    from ray import serve

    updates = int(os.environ.get("CHAOS_UPDATES", "10"))
    config = stub_config(str(tiny_dir))

    def update(folder: Path) -> Callable[[], None]:
        model = {"model": str(folder)}
        return lambda: deploy(NAME, config, blocking=True, user_config=model)

    update(tiny_dir)()
    try:
        before = {*replica_pids(NAME), *replica_pids(NAME, "Router")}
        folders = [(other_dir, tiny_dir)[n % 2] for n in range(updates)]
        swaps = under_change(Oracle(tiny_dir, other_dir), list(map(update, folders)), 10_000)
        account = asyncio.run(swaps)
        after = {*replica_pids(NAME), *replica_pids(NAME, "Router")}
    finally:
        serve.delete(NAME)
    figure(account.summary() + f"; models seen: {sorted(account.digests)}")
    assert after == before, "no process was started anew"
    assert len(account.digests) == 2
    assert_exact(account, 10_000)
