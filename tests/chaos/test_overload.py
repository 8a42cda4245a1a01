"""Too much, too late, unimportant: calls end in time, memory is bounded, training goes first."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chaos.load import Account, Oracle, batch, by, run_load
from chaos.observe import GUARD_S, idle, stats, until
from processes import replica_pids, rss_mb

from polar_ray.client import Client, connect
from polar_ray.client.handle import HandleTransport
from polar_ray.config import AdmissionConfig, PoolConfig, StubEngineConfig
from polar_ray.errors import DeadlineExceeded, Overloaded, PolarRayError
from polar_ray.pool.local import pool

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]

NAME = "full"
HUNG_S = 30.0
"""An answer that comes so long after its deadline is none. On a quiet machine it comes within 0.1
s, which tests report and do not assert: whoever shares the machine may slow it down."""

Figure = Callable[[str], None]


def config(model: str, **changes: Any) -> PoolConfig:
    """Two replicas that take about 5 ms for one record."""
    engine = StubEngineConfig(seconds_per_token=1e-4)
    values = {"model": model, "num_replicas": 2, "num_cpus": 0.1, "engine": engine, **changes}
    return PoolConfig(**values)


@pytest.mark.parametrize("state", ["dead", "stopped", "slow"])
def test_calls_end_at_their_deadline(cluster: None, model: str, figure: Figure, state: str) -> None:
    calls = int(os.environ.get("CHAOS_CALLS", "1000"))
    # Slow: 20 records take some 8 s, a pack, which is not broken off, 20 s.
    engine = StubEngineConfig(seconds_per_token=0.01 if state == "slow" else 0.0)
    settings = config(model, engine=engine, max_tokens=2048)
    deadline_s = 2.0
    late: list[float] = []
    outcomes: dict[str, int] = {}

    async def one(client: Client, n: int) -> None:
        began = time.monotonic()
        try:
            await client.score_table_async(batch(n, 20), timeout_s=deadline_s)
            outcome = "scored"
        except PolarRayError as error:
            outcome = type(error).__name__
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        late.append(time.monotonic() - began - deadline_s)

    async def main() -> None:
        client = connect(app_name=NAME)
        await client.score_table_async(batch(0, 1), timeout_s=GUARD_S)
        victims = replica_pids(NAME)
        for pid in victims:
            if state != "slow":
                os.kill(pid, signal.SIGKILL if state == "dead" else signal.SIGSTOP)
        try:
            for start in range(0, calls, 100):
                await asyncio.gather(*(one(client, start + n) for n in range(100)))
        finally:
            for pid in set(victims) & set(replica_pids(NAME)):
                os.kill(pid, signal.SIGCONT)
        # Nothing of what was given up is left.
        await client.score_table_async(batch(0, 1), timeout_s=GUARD_S)
        assert await idle(NAME) == {}

    with pool(settings, name=NAME, route_prefix="/full"):
        asyncio.run(main())
    figure(f"{calls} calls: {outcomes}, worst {max(late):+.2f} s after the deadline")
    assert len(late) == calls
    # Whoever waited for the work instead would wait for minutes, or for ever.
    assert max(late) < HUNG_S
    if state != "dead":  # those come back during the test
        assert set(outcomes) == {"DeadlineExceeded"}


def test_ten_times_too_much_is_refused_fast_and_done_in_the_end(
    cluster: None, model: str, figure: Figure
) -> None:
    """A pool that holds 20 calls gets 200 callers, some of whom come back by themselves."""
    wanted = int(os.environ.get("CHAOS_CALLS", "1000"))
    refused: list[float] = []
    accepted: list[float] = []
    memory: list[float] = []

    def is_enough() -> bool:
        return min(len(refused), len(accepted)) >= wanted

    async def impatient() -> None:
        transport = HandleTransport(NAME)
        n = 0
        while not is_enough():
            n += 1
            began = time.monotonic()
            try:
                await transport.send_async(batch(n, 8), GUARD_S, "train")
                accepted.append(time.monotonic() - began)
            except Overloaded as error:
                refused.append(time.monotonic() - began)
                await asyncio.sleep(min(error.retry_after_s, 2.0))

    async def patient(client: Client, n: int) -> int:
        return (await client.score_table_async(batch(n, 8), timeout_s=4 * GUARD_S)).num_rows

    async def main() -> int:
        client = connect(app_name=NAME)
        await client.score_table_async(batch(0, 1), timeout_s=GUARD_S)
        router = replica_pids(NAME, "Router")
        memory.append(rss_mb(router))
        crowd = asyncio.gather(*(impatient() for _ in range(180)))
        waiting = asyncio.gather(*(patient(client, 8 * n) for n in range(20)))
        while not crowd.done():
            memory.append(rss_mb(router))
            await asyncio.sleep(0.5)
        await crowd
        done = sum(await waiting)
        assert await idle(NAME) == {}
        return done

    limits = AdmissionConfig(max_calls=20)
    with pool(config(model, admission=limits), name=NAME, route_prefix="/full"):
        done = asyncio.run(main())
    p50, p99 = np.percentile(refused, [50, 99]) * 1e3
    a99 = np.percentile(accepted, 99)
    figure(
        f"{len(accepted)} accepted (p99 {a99:.2f} s), {len(refused)} refused in p50 {p50:.0f} ms, "
        f"p99 {p99:.0f} ms; router {memory[0]:.0f} -> {max(memory):.0f} MB; all who waited done"
    )
    assert done == 160
    assert max(memory) - memory[0] < 200


def test_training_beside_an_offline_job(
    cluster: None, tiny_dir: Path, model: str, figure: Figure
) -> None:
    """Both could fill the pool alone. Without priorities it would be divided by what callers have
    waiting in it; with them the job gets what training leaves, which is counted in records."""
    train_callers, train_size, job_callers, job_size = 8, 256, 4, 500
    fair = job_callers * job_size / (train_callers * train_size)

    async def main() -> tuple[list[float], list[float], float]:
        train = by(connect(app_name=NAME))
        offline = by(connect(app_name=NAME, priority="offline"))
        oracle = Oracle(tiny_dir)
        options: dict[str, Any] = {"size": train_size, "callers": train_callers}
        await run_load(train, oracle, records=2048, **options)
        alone = await run_load(train, oracle, records=16384, start=1 << 20, **options)
        over = asyncio.Event()
        job = Account()
        running = asyncio.create_task(
            run_load(
                offline,
                oracle,
                records=0,
                size=job_size,
                callers=job_callers,
                until=over,
                start=1 << 30,
                account=job,
            )
        )
        await job.ended(job_callers)
        before = job.rows
        beside = await run_load(train, oracle, records=16384, start=1 << 25, **options)
        meanwhile = job.rows - before
        over.set()
        await running
        assert job.lost == beside.lost == 0
        return alone.latencies, beside.latencies, meanwhile / beside.rows

    with pool(config(model, max_tokens=512), name=NAME, route_prefix="/full"):
        alone, beside, share = asyncio.run(main())
    before, after = np.median(alone), np.median(beside)
    figure(
        f"median latency {before * 1e3:.0f} ms alone, {after * 1e3:.0f} ms beside an offline job "
        f"({after / before - 1:+.0%}); for each record of training the job did {share:.2f} "
        f"meanwhile, {fair:.2f} without priorities"
    )
    assert share < fair / 2


def test_a_client_that_vanishes_leaves_no_work_behind(cluster: None, model: str) -> None:
    """The engine sleeps for at least an hour over what the client asked for, on any machine."""
    engine = StubEngineConfig(seconds_per_token=0.01)
    calls_before, rows = 20, 4000

    async def main() -> None:
        client = connect(app_name=NAME)
        await client.score_table_async(batch(0, 1), timeout_s=GUARD_S)
        calls = [
            asyncio.create_task(client.score_table_async(batch(n, rows), timeout_s=3600))
            for n in range(calls_before)
        ]
        await until("the pool has the calls", lambda: stats(NAME)["calls"] == calls_before)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await client.score_table_async(batch(0, 1), timeout_s=GUARD_S)
        assert await idle(NAME) == {}

    with pool(config(model, engine=engine, max_tokens=64), name=NAME, route_prefix="/full"):
        asyncio.run(main())


def test_deadlines_hold_over_http(cluster: None, model: str) -> None:
    """The engine sleeps for more than a minute over what is asked for."""
    engine = StubEngineConfig(seconds_per_token=0.1)
    with (
        pool(config(model, engine=engine, max_tokens=64), name=NAME, route_prefix="/full") as url,
        connect(address=url) as client,
    ):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.score(batch(0, 100), timeout_s=1.0)
        assert time.monotonic() - began < HUNG_S
