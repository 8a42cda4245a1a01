"""Schedules of one kind, for promises that have a number in them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pyarrow as pa
from simulation.replicas import FAILS, HANGS, KILLS
from simulation.world import Broken, Report, World, simulate

from polar_ray.pool.router.retries import BURST, SHARE, TRICKLE_PER_S

RECORDS = 4096
STORM_S = 15.0
CALLERS = 24

MOST_DEATHS_BY_COPIES = 32
"""Each of the shards that a copy is in can end a replica before it is known what they share."""

LONGEST_WAIT_S = 8.0
"""Less than a hanging replica needs to be replaced."""


async def _call(world: World, outputs: np.ndarray, shards: int) -> pa.Table:
    router = world.chance.choice(world.routers)
    how = {"rank": 0, "shards": shards, "cost": 100, "group": None}
    return await router.score(outputs, 600.0, **how)


async def _load(world: World, over: asyncio.Event, waits: list[float]) -> None:
    """One caller after the other's answer; keeps how long each call took."""
    while not over.is_set():
        outputs = world.records(100)
        began = world.loop.time()
        world.check_result(await _call(world, outputs, 2), outputs)
        waits.append(world.loop.time() - began)
        await asyncio.sleep(0.3)


async def storm(world: World) -> None:
    """Every replica is killed as soon as it is there, under load; no record has to do with it."""
    over, waits = asyncio.Event(), list[float]()
    callers = [asyncio.ensure_future(_load(world, over, waits)) for _ in range(CALLERS)]
    await asyncio.sleep(3)
    before = _sums(world)
    while world.loop.time() < 3 + STORM_S:
        for replica in world.serve.each():
            replica.kill()
        await asyncio.sleep(world.chance.choice((0.2, 0.5, 1.0)))
    after = _sums(world)
    repeats, parcels = (after[name] - before[name] for name in ("repeats", "parcels"))
    allowed = SHARE * parcels + len(world.routers) * (BURST + TRICKLE_PER_S * (STORM_S + 3))
    if repeats > allowed:
        raise Broken(f"{repeats} repeats beside {parcels} parcels that came home")
    over.set()
    await asyncio.gather(*callers)
    if _sums(world)["poison"]:
        raise Broken("an innocent record was reported as poison")
    await world.end()


def _sums(world: World) -> dict[str, int]:
    names = world.routers[0].dispatcher.counters
    return {name: sum(r.dispatcher.counters[name] for r in world.routers) for name in names}


async def one_of_4096(world: World, output: int) -> list[float]:
    """A record that ends or hangs every engine, among others and beside others; how long the
    calls beside it took."""
    over, waits = asyncio.Event(), list[float]()
    callers = [asyncio.ensure_future(_load(world, over, waits)) for _ in range(4)]
    await asyncio.sleep(8)
    waits.clear()
    outputs = world.records(RECORDS)
    outputs[world.chance.randrange(RECORDS)] = output
    shards = world.chance.choice((1, 2 * world.serve.size))
    world.check_result(await _call(world, outputs, shards), outputs)
    over.set()
    await asyncio.gather(*callers)
    await world.end()
    if world.report.poison != 1 or _sums(world)["poison"] != 1:
        raise Broken(f"{_sums(world)['poison']} records were reported")
    if world.serve.deaths > 5:
        raise Broken(f"one record cost {world.serve.deaths} replicas")
    world.report.worst_wait_s = max(waits)
    if max(waits) > LONGEST_WAIT_S:
        raise Broken(f"a call beside it waited for {max(waits)} s")
    return waits


async def killer(world: World) -> None:
    """One record of 4096 ends every replica that scores it."""
    await one_of_4096(world, KILLS)


async def hanging(world: World) -> None:
    """One record of 4096 never comes back."""
    await one_of_4096(world, HANGS)


async def copies(world: World) -> None:
    """One batch holds a killer several times, as groups of rollouts do."""
    over, waits = asyncio.Event(), list[float]()
    callers = [asyncio.ensure_future(_load(world, over, waits)) for _ in range(4)]
    await asyncio.sleep(8)
    outputs = world.records(RECORDS)
    for row in world.chance.sample(range(RECORDS), world.chance.choice((2, 4, 16))):
        outputs[row] = KILLS
    world.check_result(await _call(world, outputs, 2 * world.serve.size), outputs)
    over.set()
    await asyncio.gather(*callers)
    await world.end()
    world.report.worst_wait_s = max(waits)
    if world.serve.deaths > MOST_DEATHS_BY_COPIES:
        raise Broken(f"copies of one record cost {world.serve.deaths} replicas")


async def impatient(world: World) -> None:
    """A caller gives up after a second each time, and sends a hanging record again and again."""
    over, waits = asyncio.Event(), list[float]()
    callers = [asyncio.ensure_future(_load(world, over, waits)) for _ in range(4)]
    await asyncio.sleep(8)
    outputs = world.records(world.chance.choice((1, 8, 60)))
    outputs[world.chance.randrange(len(outputs))] = HANGS
    how = {"rank": 0, "shards": 1, "cost": 100, "group": None}
    until, answered = world.loop.time() + 300, False
    while world.loop.time() < until and not answered:
        try:
            result = await world.chance.choice(world.routers).score(outputs, 1.0, **how)
        except (TimeoutError, asyncio.TimeoutError):
            continue
        world.check_result(result, outputs)
        answered = True
    over.set()
    await asyncio.gather(*callers)
    await world.end()
    world.report.worst_wait_s = max(waits)
    if not answered:
        raise Broken(f"it was never found; {world.serve.deaths} replicas were lost")


async def failing(world: World) -> None:
    """One of many callers of single records, at the same time, has one that always fails."""
    outputs = [world.records(1) for _ in range(40)]
    outputs[world.chance.randrange(len(outputs))][0] = FAILS
    calls = [asyncio.ensure_future(_call(world, output, 1)) for output in outputs]
    results = await asyncio.gather(*calls, return_exceptions=True)
    for output, result in zip(outputs, results, strict=True):
        if isinstance(result, BaseException) != (FAILS in output):
            raise Broken(f"the caller of {output} got {result}")
    await world.end()


UPDATES = frozenset({"updates", "swaps", "kills"})
WEATHER = frozenset({"deaths", "kills", "hangs", "cancel"})

SCENARIOS: dict[str, tuple[Callable[[World], Coroutine[Any, Any, None]], dict[str, Any]]] = {
    "storm": (storm, {"kinds": frozenset()}),
    "killer": (killer, {"kinds": frozenset(), "replicas": 3, "routers": 1}),
    "hanging": (hanging, {"kinds": frozenset(), "replicas": 4, "routers": 1}),
    "failing": (failing, {"kinds": frozenset(), "replicas": 2, "routers": 1}),
    "copies": (copies, {"kinds": frozenset(), "replicas": 4, "routers": 1}),
    "impatient": (impatient, {"kinds": frozenset(), "replicas": 4, "routers": 1}),
    "updates": (World.run, {"kinds": UPDATES}),
    "weather": (World.run, {"kinds": WEATHER, "replicas": 4, "routers": 3}),
}
"""By name, with what is not drawn."""


def run_scenario(name: str, seed: int) -> Report:
    """One schedule of a kind; raises `Broken` where its promise is not kept."""
    scenario, fixed = SCENARIOS[name]
    return simulate(seed, scenario, **fixed)
