"""Ten minutes of mixed load: what the router and the replicas hold in memory stays what it is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chaos.load import Oracle, batch, by, run_load
from processes import replica_pids, rss_mb

from polar_ray.client import connect
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.pool.local import pool

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]

NAME = "soak"


def test_memory_is_flat(
    cluster: None, tiny_dir: Path, model: str, figure: Callable[[str], None]
) -> None:
    seconds = float(os.environ.get("SOAK_SECONDS", "600"))
    memory: dict[str, list[float]] = {"Router": [], "Replica": []}
    minutes: list[float] = []

    async def watch(over: asyncio.Event) -> None:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            await asyncio.sleep(min(5.0, seconds / 20))
            minutes.append((time.monotonic() - began) / 60)
            for deployment, sizes in memory.items():
                sizes.append(rss_mb(replica_pids(NAME, deployment)))
        over.set()

    async def singles(over: asyncio.Event) -> None:
        client = connect(app_name=NAME, priority="eval")
        n = 1 << 40
        while not over.is_set():
            calls = (client.score_table_async(batch(n + i, 1), timeout_s=60) for i in range(8))
            await asyncio.gather(*calls)
            n += 8

    async def main() -> tuple[int, int]:
        over = asyncio.Event()
        client = connect(app_name=NAME)
        batches = run_load(by(client), Oracle(tiny_dir), records=0, callers=3, until=over)
        account, *_ = await asyncio.gather(batches, singles(over), watch(over))
        return account.rows, account.lost + account.wrong + account.errors

    engine = StubEngineConfig(seconds_per_token=2e-5)
    config = PoolConfig(model=model, num_replicas=2, num_cpus=0.1, engine=engine)
    with pool(config, name=NAME, route_prefix="/soak"):
        rows, bad = asyncio.run(main())
    assert bad == 0
    # The first third fills caches and arenas.
    warm = len(minutes) // 3
    slopes = {
        name: float(np.polyfit(minutes[warm:], sizes[warm:], 1)[0])
        for name, sizes in memory.items()
    }
    shown = ", ".join(
        f"{name} {sizes[warm]:.0f} -> {sizes[-1]:.0f} MB ({slopes[name]:+.2f} MB/min)"
        for name, sizes in memory.items()
    )
    figure(f"{rows} records in {minutes[-1]:.1f} min: {shown}")
    for sizes in memory.values():
        assert sizes[-1] - sizes[warm] < 50
