"""What stands between callers and replicas dies under load: Serve's controller, the proxy that HTTP
comes through, the pool's only router."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos.load import Account, Oracle, assert_exact, by, run_load
from processes import own, replica_pids

from polar_ray.client import connect
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.pool.local import pool

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]

NAME = "served"
REPLICAS = 3
CONTROLLER = b"ray::ServeController"
PROXY = b"ray::ProxyActor"
HITS = 3
Figure = Callable[[str], None]


@pytest.fixture
def url(cluster: None, model: str) -> Iterator[str]:
    engine = StubEngineConfig(seconds_per_token=2e-5)
    config = PoolConfig(model=model, num_replicas=REPLICAS, num_cpus=0.1, engine=engine)
    with pool(config, name=NAME, route_prefix="/served") as address:
        yield address


async def until(what: str, is_so: Callable[[], bool], within_s: float = 120) -> float:
    """Waits until something is so; how long it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < within_s, f"{what}: not within {within_s:g} s"
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def kill_again_and_again(title: bytes, account: list[float]) -> None:
    """Kills the one process with this title, waits for the next, lets it serve for a while."""
    for _ in range(HITS):
        await asyncio.sleep(3)
        victim = own(title)[0]
        os.kill(victim, signal.SIGKILL)
        account.append(
            await until("another process", lambda v=victim: set(own(title)) - {v} != set())
        )
    await asyncio.sleep(3)


def is_whole() -> bool:
    """The pool runs, by Serve's word and in the process list."""
    from ray import serve

    status = serve.status().applications[NAME]
    return status.status == "RUNNING" and len(replica_pids(NAME)) == REPLICAS


async def both_ways(url: str, oracle: Oracle, title: bytes) -> tuple[Account, Account, list[float]]:
    """Load by handle and over HTTP while processes with a title are killed."""
    over = asyncio.Event()
    back: list[float] = []
    with connect(address=url) as web:
        loads = [
            run_load(by(connect(app_name=NAME)), oracle, records=0, callers=6, until=over),
            run_load(by(web), oracle, records=0, callers=6, until=over, start=1 << 30),
        ]
        running = asyncio.gather(*loads)
        try:
            await kill_again_and_again(title, back)
        finally:
            over.set()
        by_handle, by_http = await running
        await until("the pool is whole", is_whole)
    by_handle.kills = by_http.kills = len(back)
    return by_handle, by_http, back


def report(figure: Figure, found: tuple[Account, Account, list[float]]) -> None:
    by_handle, by_http, back = found
    figure(f"handle: {by_handle.summary()}")
    figure(f"HTTP: {by_http.summary()}; another process after at most {max(back):.1f} s")


def test_a_killed_controller_loses_nothing(url: str, tiny_dir: Path, figure: Figure) -> None:
    found = asyncio.run(both_ways(url, Oracle(tiny_dir), CONTROLLER))
    report(figure, found)
    for account in found[:2]:
        assert_exact(account, 1)
    # The new controller does the old one's work.
    victim = replica_pids(NAME)[0]
    os.kill(victim, signal.SIGKILL)
    gone = asyncio.run(until("a replica is gone", lambda: victim not in replica_pids(NAME)))
    took = asyncio.run(until("the pool is whole", is_whole))
    figure(f"a replica killed afterwards was replaced within {gone + took:.1f} s")


def test_a_killed_proxy_loses_nothing(url: str, tiny_dir: Path, figure: Figure) -> None:
    found = asyncio.run(both_ways(url, Oracle(tiny_dir), PROXY))
    report(figure, found)
    for account in found[:2]:
        assert_exact(account, 1)


def test_a_killed_router_loses_nothing(url: str, tiny_dir: Path, figure: Figure) -> None:
    title = f"ray::ServeReplica:{NAME}:Router".encode()
    found = asyncio.run(both_ways(url, Oracle(tiny_dir), title))
    report(figure, found)
    for account in found[:2]:
        assert_exact(account, 1)
