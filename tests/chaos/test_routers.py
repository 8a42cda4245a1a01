"""Whoever calls is stopped, with answers of those it called on their way: one of three routers, or
one of the callers. It costs nobody else more than what it would have done itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chaos.load import Account, Call, Oracle, assert_exact, batch, by, run_load, stub_pool
from processes import own, replica_pids

from polar_ray.client import connect

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]

NAME = "routers"
ENOUGH = 200
"""Calls that others must have answered while it stood, and again afterwards."""

WITHIN_S = 30.0
"""Serve replaces what does not answer after 36 s; by then others would go on in any case."""

Figure = Callable[[str], None]


@pytest.fixture
def url(cluster: None, model: str) -> Iterator[str]:
    with stub_pool(NAME, model, num_routers=3) as address:
        yield address


class Watch:
    """When calls began and ended."""

    def __init__(self) -> None:
        self.open: dict[int, float] = {}
        self.ended: list[float] = []
        self._number = 0

    def around(self, call: Call) -> Call:
        async def watched(table: pa.Table) -> pa.Table:
            self._number += 1
            mine = self._number
            self.open[mine] = time.monotonic()
            try:
                return await call(table)
            finally:
                del self.open[mine]
                self.ended.append(time.monotonic())

        return watched

    def since(self, at: float) -> int:
        return sum(one > at for one in self.ended)

    def per_s(self, begin: float, end: float) -> float:
        return sum(begin < one <= end for one in self.ended) / (end - begin)


async def until(what: str, is_so: Callable[[], bool], within_s: float = 120) -> None:
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < within_s, f"{what}: not within {within_s:g} s"
        await asyncio.sleep(0.1)


async def stop_and_go(victim: int, watches: list[Watch], *, finish: bool) -> list[str]:
    """Stops a process until others have answered enough, and also what was open when it stopped, if
    they are to `finish` it; lets it go on. What was seen, by way."""
    await until("calls before", lambda: all(len(one.ended) >= ENOUGH for one in watches))
    os.kill(victim, signal.SIGSTOP)
    stopped = time.monotonic()
    caught = [set(one.open) for one in watches]
    try:
        for one in watches:
            while (answered := one.since(stopped)) < ENOUGH:
                assert time.monotonic() < stopped + WITHIN_S, f"{answered} calls of others"
                await asyncio.sleep(0.1)
        if finish:
            both = list(zip(watches, caught, strict=True))
            await until("open calls", lambda: not any(c & set(w.open) for w, c in both))
    finally:
        os.kill(victim, signal.SIGCONT)
    went_on = time.monotonic()
    await until("calls after", lambda: all(one.since(went_on) >= ENOUGH for one in watches))
    now = time.monotonic()
    return [
        f"calls/s {one.per_s(stopped - 5, stopped):.0f} before, {one.per_s(stopped, went_on):.0f} "
        f"in the {went_on - stopped:.0f} s, {one.per_s(went_on, now):.0f} after"
        for one in watches
    ]


async def under_load(
    url: str, oracle: Oracle, victim: int, *, finish: bool
) -> tuple[list[Account], list[str]]:
    """Load by handle and over HTTP while a process is stopped and let go on."""
    over = asyncio.Event()
    watches = [Watch(), Watch()]
    with connect(address=url) as web:
        ways = [by(connect(app_name=NAME)), by(web)]
        running = asyncio.gather(
            *(
                run_load(watch.around(way), oracle, records=0, callers=8, until=over, start=n << 30)
                for n, (way, watch) in enumerate(zip(ways, watches, strict=True))
            )
        )
        try:
            seen = await stop_and_go(victim, watches, finish=finish)
        finally:
            over.set()
            accounts = await running
    for account in accounts:
        account.kills = 1
    return accounts, seen


def report(figure: Figure, accounts: list[Account], seen: list[str]) -> None:
    for way, account, rates in zip(("handle", "HTTP"), accounts, seen, strict=True):
        figure(f"{way}: {account.summary()}; {rates}")


def test_a_stopped_router_costs_its_own_calls_a_while_and_others_nothing(
    url: str, tiny_dir: Path, figure: Figure
) -> None:
    """Its calls are answered by the other routers before it goes on."""
    victim, *_ = replica_pids(NAME, "Router")
    replicas = set(replica_pids(NAME))
    accounts, seen = asyncio.run(under_load(url, Oracle(tiny_dir), victim, finish=True))
    report(figure, accounts, seen)
    assert set(replica_pids(NAME)) == replicas, "no replica is taken for dead"
    for account in accounts:
        assert_exact(account, 1)


def test_a_stopped_caller_costs_others_nothing(url: str, tiny_dir: Path, figure: Figure) -> None:
    """A worker that scores by handle."""
    import ray

    class StoppedCaller:
        def __init__(self) -> None:
            self._client = connect(app_name=NAME)

        def score(self, table: pa.Table) -> Any:
            return self._client.score_table(table, timeout_s=300)

    caller = ray.remote(num_cpus=0, max_concurrency=8)(StoppedCaller).remote()
    table = batch(1 << 40, 250)
    ray.get(caller.score.remote(table))
    answers = [caller.score.remote(table) for _ in range(400)]
    [victim] = own(b"ray::StoppedCaller")
    processes = {*replica_pids(NAME), *replica_pids(NAME, "Router")}
    try:
        accounts, seen = asyncio.run(under_load(url, Oracle(tiny_dir), victim, finish=False))
        ready, waiting = ray.wait(answers, num_returns=len(answers), timeout=300)
        own_account = Account(kills=1)
        Oracle(tiny_dir).check(table, ray.get(ready[-1]), own_account)
    finally:
        ray.kill(caller)
    report(figure, accounts, seen)
    assert not waiting, "the caller goes on where it was"
    assert_exact(own_account, 1)
    assert {*replica_pids(NAME), *replica_pids(NAME, "Router")} == processes
    for account in accounts:
        assert_exact(account, 1)
