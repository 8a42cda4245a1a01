"""Storms: all replicas are killed again and again under load. The weather is nobody's fault: no
record is reported for it, repeats are bounded, nothing is lost, and the pool comes back."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos.load import Account, Oracle, assert_exact, by, run_load, stub_pool
from chaos.observe import idle, is_whole, running, since, stats, until
from processes import kill

from polar_ray.client import connect
from polar_ray.pool.router.retries import BURST, SHARE, TRICKLE_PER_S

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(3600)]

NAME = "storm"
REPLICAS = 3
ROUNDS = int(os.environ.get("CHAOS_STORMS", "5"))
KILLS = int(os.environ.get("CHAOS_STORM_KILLS", "20"))
CALM_RECORDS = 10_000

Figure = Callable[[str], None]


async def strike(account: Account, chance: random.Random) -> None:
    """Kills all replicas that are ready, `KILLS` of them in the end: each time as soon as they have
    work in hand, or when they have also brought some home."""
    while account.kills < KILLS:
        await until("a replica is ready", lambda: bool(running(NAME)))
        await until("it has work in hand", lambda: stats(NAME)["held_parcels"] > 0)
        parcels = (await asyncio.to_thread(stats, NAME))["parcels"]
        home = parcels + chance.choice((0, 0, 1, 4))
        await until("work came home", lambda enough=home: stats(NAME)["parcels"] >= enough)
        victims = await asyncio.to_thread(running, NAME)
        kill(*victims)
        account.kills += len(victims)


async def storm(oracle: Oracle, start: int, chance: random.Random) -> Account:
    """Callers of single records, whose few rows go first again after every death, beside an offline
    job, until the last of the kills."""
    over = asyncio.Event()
    account = Account()
    options: dict[str, Any] = {"records": 0, "until": over, "account": account}
    train = by(connect(app_name=NAME))
    offline = by(connect(app_name=NAME, priority="offline"))
    loads = asyncio.gather(
        run_load(train, oracle, size=1, callers=8, start=start, **options),
        run_load(offline, oracle, callers=16, start=start + (1 << 30), **options),
    )
    try:
        await strike(account, chance)
    finally:
        over.set()
    await loads
    return account


async def calm(oracle: Oracle, start: int) -> tuple[Account, float]:
    """A load without any kills, and its records a second."""
    began = time.monotonic()
    call = by(connect(app_name=NAME))
    account = await run_load(call, oracle, records=CALM_RECORDS, start=start)
    return account, account.rows / (time.monotonic() - began)


def test_storms_report_no_record_and_repeats_are_bounded(
    cluster: None, model: str, tiny_dir: Path, figure: Figure
) -> None:
    oracle = Oracle(tiny_dir)
    chance = random.Random(3)
    storms = []
    allowed: list[float] = []
    with stub_pool(NAME, model):
        _, usual = asyncio.run(calm(oracle, 1 << 45))
        for number in range(ROUNDS):
            before, began = stats(NAME), time.monotonic()
            account = asyncio.run(storm(oracle, number << 35, chance))
            grown = since(NAME, before)
            anyway = BURST + TRICKLE_PER_S * (time.monotonic() - began)
            allowed.append(SHARE * grown["parcels"] + anyway)
            asyncio.run(until("the pool is whole", lambda: is_whole(NAME, REPLICAS)))
            after, speed = asyncio.run(calm(oracle, (1 << 46) + (number << 35)))
            storms.append((account, grown, after, asyncio.run(idle(NAME))))
            figure(
                f"{account.summary()}; {grown['parcels']:.0f} parcels came home, "
                f"{grown['repeats']:.0f} repeats ({allowed[-1]:.0f} allowed), "
                f"{grown['poison']:.0f} reported; afterwards "
                f"{speed:.0f} records/s, before {usual:.0f}"
            )
    for (account, grown, after, left), most in zip(storms, allowed, strict=True):
        assert grown["poison"] == 0
        assert_exact(account, 1)
        assert (after.lost, after.wrong, after.errors, after.duplicated) == (0, 0, 0, 0)
        assert left == {}
        assert grown["repeats"] <= most
