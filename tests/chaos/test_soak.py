"""A long mixed load: what the router and the replicas hold in memory stays what it is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chaos.load import Account, Oracle, batch, by, run_load, stub_pool
from chaos.observe import GUARD_S, idle
from processes import replica_pids, rss_mb

from polar_ray.client import connect

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(3600)]

NAME = "soak"
SIZE = 250


def test_memory_is_flat(
    cluster: None, tiny_dir: Path, model: str, figure: Callable[[str], None]
) -> None:
    records = int(os.environ.get("SOAK_RECORDS", "2000000"))
    samples = 100
    memory: dict[str, list[float]] = {"Router": [], "Replica": []}
    millions: list[float] = []

    async def watch(over: asyncio.Event, account: Account) -> None:
        while account.rows < records:
            await account.ended(max(1, records // samples // SIZE))
            millions.append(account.rows / 1e6)
            for deployment, sizes in memory.items():
                sizes.append(rss_mb(replica_pids(NAME, deployment)))
        over.set()

    async def singles(over: asyncio.Event) -> None:
        client = connect(app_name=NAME, priority="eval")
        n = 1 << 40
        while not over.is_set():
            calls = (client.score_table_async(batch(n + i, 1), timeout_s=GUARD_S) for i in range(8))
            await asyncio.gather(*calls)
            n += 8

    async def main() -> tuple[int, int]:
        over = asyncio.Event()
        client = connect(app_name=NAME)
        account = Account()
        batches = run_load(
            by(client),
            Oracle(tiny_dir),
            records=records,
            size=SIZE,
            callers=3,
            until=over,
            account=account,
        )
        await asyncio.gather(batches, singles(over), watch(over, account))
        assert await idle(NAME) == {}
        return account.rows, account.lost + account.wrong + account.errors

    began = time.monotonic()
    with stub_pool(NAME, model, num_replicas=2):
        rows, bad = asyncio.run(main())
    assert bad == 0
    # The first third fills caches and arenas.
    warm = len(millions) // 3
    slopes = {
        name: float(np.polyfit(millions[warm:], sizes[warm:], 1)[0])
        for name, sizes in memory.items()
    }
    shown = ", ".join(
        f"{name} {sizes[warm]:.0f} -> {sizes[-1]:.0f} MB ({slopes[name]:+.2f} MB per million)"
        for name, sizes in memory.items()
    )
    figure(f"{rows} records in {(time.monotonic() - began) / 60:.1f} min: {shown}")
    for sizes in memory.values():
        assert sizes[-1] - sizes[warm] < 50
