"""Replicas of little use: one that hardly gets on, and all of them dying again and again. Repeats
are bounded, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from chaos.load import Account, Oracle, assert_exact, by, run_load
from processes import kill, replica_pids

from polar_ray.client import connect
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.pool.local import pool

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]

NAME = "gray"
Figure = Callable[[str], None]


@pytest.fixture
def three(cluster: None, model: str) -> Iterator[None]:
    engine = StubEngineConfig(seconds_per_token=2e-5)
    config = PoolConfig(model=model, num_replicas=3, num_cpus=0.1, engine=engine)
    with pool(config, name=NAME, route_prefix="/gray"):
        yield


def stats() -> dict[str, float]:
    from ray import serve

    found: dict[str, float] = serve.get_app_handle(NAME).stats.remote().result(timeout_s=60)
    return found


def since(before: dict[str, float]) -> dict[str, float]:
    """What the router's counters have grown by."""
    return {name: value - before[name] for name, value in stats().items()}


async def load_for(seconds: float, oracle: Oracle, start: int, **options: Any) -> Account:
    """The usual load for a while."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    client = by(connect(app_name=NAME))
    return await run_load(client, oracle, records=0, until=over, start=start, **options)


@contextmanager
def slowed(pid: int, *, runs_s: float, stands_s: float) -> Iterator[None]:
    """A process gets on for a part of the time only."""
    over = Event()

    def beat() -> None:
        with suppress(ProcessLookupError):
            while not over.is_set():
                os.kill(pid, signal.SIGSTOP)
                time.sleep(stands_s)
                os.kill(pid, signal.SIGCONT)
                time.sleep(runs_s)

    beating = Thread(target=beat)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()


def test_a_slow_replica_costs_its_share_and_no_record(
    three: None, tiny_dir: Path, figure: Figure
) -> None:
    """One of three gets on for a tenth of the time, in beats that are too short to count as
    silence. There are few callers, so that the others have time to repeat what it is late with."""
    oracle = Oracle(tiny_dir)
    alone = asyncio.run(load_for(20, oracle, 0, callers=3))
    before = stats()
    victim = replica_pids(NAME)[0]
    with slowed(victim, runs_s=0.4, stands_s=4.0):
        beside = asyncio.run(load_for(60, oracle, 1 << 30, callers=3))
    beside.kills = 1
    grown = since(before)
    healthy = np.percentile(alone.latencies, 99)
    figure(
        f"{beside.summary()}; p99 {healthy:.2f} s with all well; {grown['repeats']:.0f} of "
        f"{grown['parcels']:.0f} parcels repeated; throughput "
        f"{beside.rows / 60 / (alone.rows / 20):.0%} of that with all well"
    )
    assert_exact(beside, 1)
    assert victim in replica_pids(NAME), "it was to be slow, not dead"
    assert grown["repeats"] > 0
    assert grown["deaths"] == 0


def test_repeats_are_bounded_while_all_replicas_die(
    three: None, tiny_dir: Path, figure: Figure
) -> None:
    """Every replica is killed as soon as it is there, for a quarter of a minute, under twice the
    usual number of callers."""
    seconds = 15.0
    oracle = Oracle(tiny_dir)

    async def murder(until: float) -> int:
        killed = 0
        while time.monotonic() < until:
            pids = replica_pids(NAME)
            kill(*pids)
            killed += len(pids)
            await asyncio.sleep(0.5)
        return killed

    async def main() -> tuple[Account, Account, int, dict[str, float]]:
        usual = await load_for(15, oracle, 0)
        before = await asyncio.to_thread(stats)
        over = asyncio.Event()
        client = by(connect(app_name=NAME), timeout_s=300)
        storm = asyncio.create_task(
            run_load(client, oracle, records=0, callers=24, until=over, start=1 << 30)
        )
        await asyncio.sleep(2)
        killed = await murder(time.monotonic() + seconds)
        during = await asyncio.to_thread(since, before)
        over.set()
        account = await storm
        account.kills = killed
        return usual, account, killed, during

    usual, account, killed, during = asyncio.run(main())
    began = time.monotonic()
    after = asyncio.run(load_for(15, oracle, 1 << 40))
    took = time.monotonic() - began
    left = stats()
    figure(
        f"{account.summary()}; while they died: {during['parcels']:.0f} parcels came home, "
        f"{during['repeats']:.0f} repeats; afterwards {after.rows / took:.0f} records/s, before "
        f"{usual.rows / 15:.0f}"
    )
    assert killed > 0
    assert_exact(account, 1)
    # A share of what came home, what may come at once, and a trickle.
    assert during["repeats"] <= 64 + 0.2 * during["parcels"] + 10 * (seconds + 5)
    assert left["calls"] == left["held_bytes"] == 0
    assert after.lost == after.wrong == 0
    assert after.rows > 0.5 * usual.rows
