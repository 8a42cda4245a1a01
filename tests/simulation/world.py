"""A whole pool in virtual time: callers, routers, replicas and faults, all drawn from one seed.

`simulate(seed)` runs one schedule and raises `Broken` where a promise is not kept. The routers are
the real `Dispatcher`; replicas, Serve and time are simulated. Each schedule draws which kinds of
faults it has, so that some schedules have many of one kind and none of another.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from simulation.loop import VirtualLoop
from simulation.replicas import FAILS, GARBAGE, HANGS, KILLS, Serve, expected

from polar_ray.errors import PolarRayError
from polar_ray.planning.shard import Shards
from polar_ray.pool.router.call import Served
from polar_ray.pool.router.dispatcher import Dispatcher
from polar_ray.pool.router.outcome import Refused, Unreachable
from polar_ray.pool.router.retries import BURST, SHARE, TRICKLE_PER_S
from polar_ray.pool.router.work import Attempt
from polar_ray.scores import provenance

TICK_S = 0.5
FAULTS_S = 40.0
"""Faults come within this time of a schedule's beginning."""

HEAL_S = 150.0
"""After the last fault: a second death of every replica, the longest trial and rest are over."""


class Broken(AssertionError):
    """A promise that was not kept."""


@dataclass
class Report:
    """What one schedule had in it."""

    seed: int
    turns: int = 0
    calls: int = 0
    answered: int = 0
    errors: int = 0
    late: int = 0
    left: int = 0
    deaths: int = 0
    poison: int = 0
    worst_wait_s: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class Router:
    """One router: the real dispatcher, its ticks, and its way to the replicas."""

    def __init__(self, number: int, world: World) -> None:
        self._number, self._world = number, world
        self.dispatcher = Dispatcher(self._send, self._ask, self._reserve, clock=world.loop.time)
        self._awake = asyncio.Event()
        self._awake.set()
        self.gone = False
        world.serve.listen(self._hear_of)
        world.spawn(self._tick())

    def _hear_of(self, names: list[str]) -> None:
        if not self.gone:
            self.dispatcher.set_members(names)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self._awake.wait()
            self.dispatcher.tick()

    async def _send(self, attempt: Attempt) -> pa.Table:
        return await self._carried(
            lambda: self._world.serve.find(attempt.member.name).score(attempt, self._number)
        )

    async def _ask(self, replica: str) -> Served | None:
        return await self._carried(lambda: self._world.serve.find(replica).heartbeat(self._number))

    async def _reserve(self, replica: str) -> None:
        await self._carried(lambda: self._world.serve.find(replica).reserve(self._number))

    async def _carried(self, way: Callable[[], Awaitable[Any]]) -> Any:
        """A stopped router hears nothing until it goes on; Serve loses or cancels some calls."""
        chance, kinds = self._world.chance, self._world.kinds
        if "unreachable" in kinds and chance.random() < 0.02:
            raise Unreachable
        if "refused" in kinds and chance.random() < 0.01:
            raise Refused
        if "cancelled by Serve" in kinds and chance.random() < 0.01:
            raise asyncio.CancelledError
        try:
            return await way()
        finally:
            await self._awake.wait()

    async def stop_for(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT."""
        self._awake.clear()
        await asyncio.sleep(seconds)
        self._awake.set()

    async def score(self, outputs: np.ndarray, timeout_s: float, **how: Any) -> pa.Table:
        """What `pool.router.deployment.Router.score` does, without Ray."""
        texts = pa.array([str(n) for n in outputs])
        table = pa.table({"prompt": texts, "reference": texts, "output": texts})
        shards = min(how.pop("shards"), len(outputs))
        rows = np.array_split(np.arange(len(outputs)), shards)
        sharded = Shards(rows, [how["cost"] * len(taken) for taken in rows], how["group"])
        deadline = self._world.loop.time() + timeout_s
        scoring = self.dispatcher.score(table, sharded, rank=how["rank"], deadline=deadline)
        return await asyncio.wait_for(scoring, timeout_s)


class World:
    """One schedule."""

    def __init__(
        self,
        seed: int,
        loop: VirtualLoop,
        *,
        kinds: frozenset[str] | None = None,
        replicas: int | None = None,
        routers: int | None = None,
    ) -> None:
        """What is not given is drawn."""
        self.chance, self.loop = random.Random(seed), loop
        chance = self.chance
        some = [kind for kind in sorted(FAULTS) if chance.random() < 0.3]
        self.kinds = frozenset(some) if kinds is None else kinds
        self.report = Report(seed, faults=sorted(self.kinds))
        self._tasks: list[asyncio.Task[Any]] = []
        self.serve = Serve(replicas or chance.choice((1, 2, 3, 3, 4, 6)), "v1", chance)
        count = routers or chance.choice((1, 1, 2, 3))
        self.routers = [Router(n, self) for n in range(count)]
        self._outputs = iter(range(1, 1 << 40))
        self.spawn(self.serve.run())

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs beside, until the schedule is over."""
        task = self.loop.create_task(work)
        self._tasks.append(task)
        return task

    def records(self, count: int) -> np.ndarray:
        """int64 [count]: outputs of records that no batch had before."""
        return np.array([next(self._outputs) for _ in range(count)])

    async def run(self) -> None:
        """Load and faults, then quiet, then a look at everything."""
        callers = [self.loop.create_task(self._caller()) for _ in range(self.chance.randint(2, 12))]
        faults = [self.spawn(FAULTS[kind](self)) for kind in sorted(self.kinds) if FAULTS[kind]]
        await asyncio.gather(*callers)
        await asyncio.gather(*faults)
        await self.end()

    async def end(self) -> None:
        """The faults are over; what is left of them after a while is too much."""
        self._heal()
        await asyncio.sleep(HEAL_S)
        await self._probe()
        await self.close()
        self._check_nothing_is_left()

    # Callers.

    async def _caller(self) -> None:
        chance = self.chance
        for _ in range(chance.randint(1, 8)):
            await asyncio.sleep(chance.choice((0, 0, 0.01, 0.3, 3, 8)))
            await self._call()

    def _draw(self) -> np.ndarray:
        """The outputs of one batch; one in some has a record that is not like others."""
        chance = self.chance
        size = chance.choice((1, 1, 1, 2, 8, 60, 500))
        outputs = self.records(size)
        for kind, output in (("kills", KILLS), ("hangs", HANGS), ("fails", FAILS)):
            if kind in self.kinds and chance.random() < 0.04:
                for _ in range(chance.choice((1, 1, 3))):
                    outputs[chance.randrange(size)] = output
        return outputs

    async def _call(self) -> None:
        chance, outputs = self.chance, self._draw()
        router = chance.choice([r for r in self.routers if not r.gone] or self.routers)
        timeout_s = chance.choice((0.005, 0.05, 1, 30, 300, 300, 300))
        how = {
            "rank": chance.randrange(3),
            "shards": chance.choice((1, 1, 4, 12)),
            "cost": chance.choice((100, 100, 20_000)),
            "group": chance.choice((None, 1, 2)),
        }
        call = self.loop.create_task(router.score(outputs, timeout_s, **how))
        if "cancel" in self.kinds and chance.random() < 0.5:
            await self._cancel(call)
        began = self.loop.time()
        self.report.calls += 1
        try:
            result = await call
        except asyncio.CancelledError:
            self.report.left += 1
        except (TimeoutError, asyncio.TimeoutError):
            self.report.late += 1
            # Some faults last until the callers are done, or take a pool's only replica many times.
            lasting = {"hangs", "kills", "slowness", "partitions"}
            calm = not lasting.intersection(self.report.faults)
            if calm and timeout_s > FAULTS_S + HEAL_S:
                raise Broken(f"a call was forgotten: no answer in {timeout_s} s") from None
            # A stopped router's callers are late by as long as it stands, and nobody else.
            if self.loop.time() - began > timeout_s + 0.1 and "router stops" not in self.kinds:
                took = self.loop.time() - began
                raise Broken(f"a call of {timeout_s} s ended after {took} s") from None
        except PolarRayError as error:
            self.report.errors += 1
            self._check_error(error, outputs, router)
        else:
            self.report.answered += 1
            self.check_result(result, outputs)

    async def _cancel(self, call: asyncio.Task[Any]) -> None:
        """At any step: after some turns of the loop, or some time."""
        if self.chance.random() < 0.7:
            for _ in range(self.chance.randrange(12)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self.chance.choice((0.001, 0.02, 0.5, 3)))
        call.cancel()

    def check_result(self, result: pa.Table, outputs: np.ndarray) -> None:
        """Raises `Broken` unless every record has its score, or its error."""
        digest = provenance(result)["model_digest"]
        scores = result["score"].to_pylist()
        if len(scores) != len(outputs):
            raise Broken(f"{len(scores)} rows for {len(outputs)} records")
        right = expected(outputs, digest)
        for output, score, known, error in zip(
            outputs, scores, right, result["error"].to_pylist(), strict=True
        ):
            if output in (KILLS, HANGS):
                if score is not None or not error.startswith("poison"):
                    raise Broken(f"a record that ends replicas got {score}, {error}")
                self.report.poison += 1
            elif error is not None:
                raise Broken(f"an innocent record was reported: {error}")
            elif score != known:
                raise Broken(f"record {output} got {score} of {digest}, which scores it {known}")

    def _check_error(self, error: PolarRayError, outputs: np.ndarray, router: Router) -> None:
        """Only what an error may be about."""
        text = str(error)
        if "router is gone" in text and router.gone:
            return
        if "wakes" in text and FAILS in outputs:
            return
        if "changed its model" in text and self.kinds & {"updates", "swaps", "garbage"}:
            return
        if "lost again and again" in text and len(self.kinds) > 1:
            return
        if self.kinds & {"garbage"} and "replicas fail on this batch" in text:
            return
        raise Broken(f"a caller heard {type(error).__name__}: {text}")

    # The end.

    def _heal(self) -> None:
        self.kinds = frozenset()
        for replica in [*self.serve.replicas.values(), *self.serve.removed.values()]:
            replica.slow, replica.garbage = 1.0, None
            replica.cut_off.clear()
            replica.go_on()

    async def _probe(self) -> None:
        """A healed pool answers everybody."""
        for router in self.routers:
            if router.gone:
                continue
            for _ in range(10):
                outputs = self.records(1)
                how = {"rank": 0, "shards": 1, "cost": 100, "group": None}
                try:
                    result = await router.score(outputs, 5.0, **how)
                except (TimeoutError, asyncio.TimeoutError):
                    held = router.dispatcher.held
                    raise Broken(f"a healed pool does not answer; {held}") from None
                self.check_result(result, outputs)
            self._check_repeats(router)

    def _check_repeats(self, router: Router) -> None:
        counters = router.dispatcher.counters
        allowed = SHARE * counters["parcels"] + BURST + TRICKLE_PER_S * self.loop.time()
        if counters["repeats"] > allowed:
            raise Broken(
                f"{counters['repeats']} repeats beside {counters['parcels']} parcels that came home"
            )

    async def close(self) -> None:
        """Ends what runs beside."""
        await asyncio.sleep(2 * TICK_S)
        for task in self._tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def _check_nothing_is_left(self) -> None:
        for router in self.routers:
            held = router.dispatcher.held
            if any(held.values()):
                raise Broken(f"left over: {held}")
        leaked = asyncio.all_tasks() - {asyncio.current_task()}
        if leaked:
            raise Broken(f"{len(leaked)} tasks left over, such as {leaked.pop()}")


# Faults. Each is a coroutine of the world; None where routers or callers act it out themselves.


async def _again_and_again(world: World, act: Callable[[], Any]) -> None:
    """At random moments while faults last."""
    while world.loop.time() < FAULTS_S:
        await asyncio.sleep(world.chance.choice((0.01, 0.5, 2, 6, 15)))
        found = act()
        if asyncio.iscoroutine(found):
            await found


def _victim(world: World) -> Any:
    return world.chance.choice(world.serve.each() or [None])


async def _deaths(world: World) -> None:
    def act() -> None:
        if (replica := _victim(world)) is not None:
            replica.kill()

    await _again_and_again(world, act)


async def _storm(world: World) -> None:
    """Every replica is killed as soon as it is there, for a while."""
    await asyncio.sleep(world.chance.uniform(0, 10))
    until = world.loop.time() + world.chance.uniform(3, 25)
    while world.loop.time() < until:
        for replica in world.serve.each():
            replica.kill()
        await asyncio.sleep(world.chance.choice((0.2, 0.5, 2)))


async def _silence(world: World) -> None:
    async def act() -> None:
        if (replica := _victim(world)) is not None:
            replica.stop()
            await asyncio.sleep(world.chance.choice((0.5, 4, 8, 30)))
            replica.go_on()

    await _again_and_again(world, act)


async def _slowness(world: World) -> None:
    def act() -> None:
        if (replica := _victim(world)) is not None:
            replica.slow = world.chance.choice((1, 5, 50, 400))

    await _again_and_again(world, act)


async def _partitions(world: World) -> None:
    def act() -> None:
        if (replica := _victim(world)) is not None:
            replica.cut_off ^= {world.chance.randrange(len(world.routers))}

    await _again_and_again(world, act)


async def _garbage(world: World) -> None:
    def act() -> None:
        if (replica := _victim(world)) is not None:
            replica.garbage = world.chance.choice(sorted(GARBAGE))

    await _again_and_again(world, act)


async def _updates(world: World) -> None:
    await _again_and_again(world, lambda: world.serve.roll(world.chance.choice(("v1", "v2", "v3"))))


async def _swaps(world: World) -> None:
    await _again_and_again(world, lambda: world.serve.swap(world.chance.choice(("v1", "v2", "v3"))))


async def _scaling(world: World) -> None:
    async def act() -> None:
        world.serve.size = world.chance.choice((1, 2, 3, 5))
        for replica in list(world.serve.replicas.values())[world.serve.size :]:
            await world.serve.drain(replica)

    await _again_and_again(world, act)


async def _router_stops(world: World) -> None:
    await _again_and_again(
        world,
        lambda: world.chance.choice(world.routers).stop_for(world.chance.choice((1, 6, 20))),
    )


async def _router_goes(world: World) -> None:
    """One of several routers is told that its pool is deleted."""
    await asyncio.sleep(world.chance.uniform(0, 30))
    router = world.chance.choice(world.routers)
    if len(world.routers) > 1:
        router.gone = True
        router.dispatcher.give_up("this router is gone", held=True)


FAULTS: dict[str, Callable[[World], Coroutine[Any, Any, None]] | None] = {
    "deaths": _deaths,
    "storm": _storm,
    "silence": _silence,
    "slowness": _slowness,
    "partitions": _partitions,
    "garbage": _garbage,
    "updates": _updates,
    "swaps": _swaps,
    "scaling": _scaling,
    "router stops": _router_stops,
    "router goes": _router_goes,
    "cancel": None,
    "kills": None,
    "hangs": None,
    "fails": None,
    "unreachable": None,
    "refused": None,
    "cancelled by Serve": None,
}
"""Kinds of faults by name."""


class _Alarm(logging.Handler):
    """Keeps what the pool logs as its own bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


def simulate(
    seed: int, scenario: Callable[[World], Coroutine[Any, Any, None]] = World.run, **options: Any
) -> Report:
    """Runs one schedule; raises `Broken` where a promise is not kept."""
    loop, alarm = VirtualLoop(), _Alarm()
    logger = logging.getLogger("polar_ray.pool")
    level, logger.propagate = logger.level, False
    logger.addHandler(alarm)
    logger.setLevel(logging.ERROR)
    asyncio.set_event_loop(loop)
    try:
        world = loop.run_until_complete(_run(seed, loop, scenario, options))
        if alarm.texts:
            raise Broken(alarm.texts[0])
        if loop.uncaught:
            raise Broken(f"nobody caught {loop.uncaught[0]}")
    finally:
        logger.removeHandler(alarm)
        logger.setLevel(level)
        logger.propagate = True
        asyncio.set_event_loop(None)
        loop.close()
    world.report.turns = loop.turns
    world.report.deaths = world.serve.deaths
    for router in world.routers:
        for name, count in router.dispatcher.counters.items():
            world.report.counters[name] = world.report.counters.get(name, 0) + count
    return world.report


async def _run(seed: int, loop: VirtualLoop, scenario: Any, options: dict[str, Any]) -> World:
    world = World(seed, loop, **options)
    try:
        await scenario(world)
    except BaseException:
        await world.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        raise
    return world
