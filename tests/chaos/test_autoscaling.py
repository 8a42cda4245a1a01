"""A pool that grows and shrinks under load: no record is lost, twice or wrong, whoever starts,
leaves or is killed meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from chaos.load import Account, Oracle, assert_exact, batch, by, run_load
from chaos.observe import idle, running, until
from processes import replica_pids

from polar_ray.client import connect
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.pool.local import pool

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]

NAME = "scaled"
MOST = 4

Figure = Callable[[str], None]
Start = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def scaled(cluster: None, model: str) -> Start:
    @contextmanager
    def start(**settings: Any) -> Iterator[None]:
        config = PoolConfig(
            model=model,
            max_replicas=MOST,
            num_cpus=0.1,
            engine=StubEngineConfig(seconds_per_token=2e-4),
            **{"autoscaling.target_wait_s": 1, "autoscaling.upscale_delay_s": 1},
            **{"autoscaling.downscale_delay_s": 5},
            **settings,
        )
        with pool(config, name=NAME, route_prefix="/scaled"):
            yield

    return start


def are(count: int) -> Callable[[], bool]:
    """Whether so many replicas are ready and no other process of theirs is left."""
    return lambda: len(running(NAME)) == len(replica_pids(NAME)) == count


@pytest.mark.parametrize(
    ("settings", "kill"),
    [({}, False), ({}, True), ({"num_routers": 2}, False)],
    ids=["calm", "with SIGKILL of replicas", "with two routers"],
)
def test_a_pool_grows_and_shrinks_under_load_and_loses_nothing(
    scaled: Start, tiny_dir: Path, figure: Figure, settings: dict[str, Any], kill: bool
) -> None:
    over, oracle, account = asyncio.Event(), Oracle(tiny_dir), Account()

    async def grow(client: Any) -> float:
        load = asyncio.create_task(
            run_load(by(client), oracle, records=0, account=account, until=over)
        )
        try:
            for count in range(2, MOST + 1) if kill else ():
                await until("another replica", lambda n=count: len(running(NAME)) >= n)
                os.kill(sorted(running(NAME))[0], signal.SIGKILL)
                account.kills += 1
            took = await until("the pool has grown", are(MOST))
            await account.ended(36)
        finally:
            over.set()
        await load
        return took

    async def shrink(client: Any) -> float:
        """Light work goes on while replicas leave."""
        over = asyncio.Event()
        options: dict[str, Any] = {"records": 0, "callers": 1, "start": 1 << 40, "until": over}
        load = asyncio.create_task(run_load(by(client), oracle, account=account, size=2, **options))
        try:
            return await until("the pool has shrunk", are(1))
        finally:
            over.set()
            await load

    with scaled(**settings):
        asyncio.run(until("the least there are", are(1)))
        client = connect(app_name=NAME)
        grew = asyncio.run(grow(client))
        shrank = asyncio.run(shrink(client))
        left = asyncio.run(idle(NAME))
    account.kills = account.kills or 1  # those that left
    figure(f"1 to {MOST} in {grew:.0f} s, back in {shrank:.0f} s: {account.summary()}")
    assert_exact(account, 36 * 250)
    assert left == {}


def test_a_pool_goes_to_zero_and_comes_back_for_a_call(
    scaled: Start, tiny_dir: Path, figure: Figure
) -> None:
    from ray import serve

    oracle, account = Oracle(tiny_dir), Account()
    with scaled(min_replicas=0):
        assert are(0)()
        client, router = connect(app_name=NAME), serve.get_app_handle(NAME)
        router.ready.remote().result(timeout_s=60)  # it takes calls
        assert "next one starts it" in router.why_waiting.remote().result(timeout_s=60)
        for start in (0, 1000):
            table = batch(start, 100)
            call = asyncio.to_thread(client.score_table, table, timeout_s=600)
            oracle.check(table, asyncio.run(_result(call)), account)
            gone = asyncio.run(until("the pool runs no replica", are(0)))
            figure(f"no replica {gone:.0f} s after the call")
    assert (account.rows, account.lost, account.wrong, account.errors) == (200, 0, 0, 0)


async def _result(call: Any) -> Any:
    return await call
