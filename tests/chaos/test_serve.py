"""What stands between callers and replicas dies under load: Serve's controller, the proxy that HTTP
comes through, the pool's only router."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos.load import Account, Oracle, assert_exact, by, run_load
from chaos.observe import is_whole, until
from processes import own, replica_pids

from polar_ray.client import connect

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]

NAME = "served"
REPLICAS = 3
CONTROLLER = b"ray::ServeController"
PROXY = b"ray::ProxyActor"
HITS = 3
CALLS = 36
"""Calls of each load that end between two hits: some of each caller."""

Figure = Callable[[str], None]


async def kill_again_and_again(title: bytes, accounts: list[Account]) -> list[float]:
    """Kills the one process with this title each time that every load has got on, the last time
    included; how long each time another one took to be there."""
    back = []
    for _ in range(HITS):
        await asyncio.gather(*(account.ended(CALLS) for account in accounts))
        victim = own(title)[0]
        os.kill(victim, signal.SIGKILL)
        another = "another process is there"
        back.append(await until(another, lambda v=victim: set(own(title)) - {v} != set()))
    await asyncio.gather(*(account.ended(CALLS) for account in accounts))
    return back


async def both_ways(url: str, oracle: Oracle, title: bytes) -> tuple[Account, Account, list[float]]:
    """Load by handle and over HTTP while processes with a title are killed."""
    over = asyncio.Event()
    by_handle, by_http = Account(), Account()
    options: dict[str, Any] = {"oracle": oracle, "records": 0, "callers": 6, "until": over}
    with connect(address=url) as web:
        running = asyncio.gather(
            run_load(by(connect(app_name=NAME)), account=by_handle, **options),
            run_load(by(web), account=by_http, start=1 << 30, **options),
        )
        try:
            back = await kill_again_and_again(title, [by_handle, by_http])
        finally:
            over.set()
        await running
    await until("the pool is whole", lambda: is_whole(NAME, REPLICAS))
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
    took = asyncio.run(until("the pool is whole", lambda: is_whole(NAME, REPLICAS)))
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
