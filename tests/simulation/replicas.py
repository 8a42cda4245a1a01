"""Simulated replicas: one engine each, faults on demand, and Serve's part in starting them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from parcels import scored

from polar_ray.pool.replica.reservation import NotReserved, Reservation
from polar_ray.pool.router.call import Served
from polar_ray.pool.router.outcome import Died, Refused, Unreachable
from polar_ray.pool.router.work import Attempt

KILLS, HANGS, FAILS = -1, -2, -3
"""Outputs of records that end a replica's process, never come back, raise an error."""

WATCHDOG_S = 10.0
"""How long a replica is stuck before its own watchdog ends it."""

S_PER_ROW = 2e-4
S_PER_FORWARD = 0.01


def expected(outputs: np.ndarray, digest: str) -> np.ndarray:
    """float32 [rows]: the scores of records by the model of this digest."""
    return ((outputs * 31 + int(digest[1:]) * 7919) % 10_007).astype(np.float32)


class Replica:
    """A process with one engine, as a router meets it."""

    def __init__(self, name: str, digest: str, chance: random.Random) -> None:
        self.name, self.digest = name, digest
        self.alive = True
        self.draining = False
        self.loading = False
        self.slow = 1.0
        self.garbage: str | None = None
        self._num_lies = 0
        self._chance = chance
        self._engine = asyncio.Lock()
        self._runs = asyncio.Event()
        self._runs.set()
        self._died = asyncio.Event()
        self._served = asyncio.Event()
        self._served.set()
        self.hung = False
        self._reservation = Reservation()
        self.cut_off: set[int] = set()
        """Routers that cannot reach it."""

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self._died.set()
        self._runs.set()

    def stop(self) -> None:
        """SIGSTOP."""
        self._runs.clear()

    def go_on(self) -> None:
        """SIGCONT."""
        self._runs.set()

    @property
    def stopped(self) -> bool:
        return not self._runs.is_set()

    async def swap(self, digest: str, takes_s: float) -> None:
        """Loads another model in place, once what it is at is done."""
        self.loading = True
        self._served.clear()
        async with self._engine:
            await asyncio.sleep(takes_s)
            self.digest = digest
            self.loading = False
            self._served.set()

    async def heartbeat(self, router: int) -> Served | None:
        """What it serves; None while it loads."""
        await self._reached(router)
        return None if self.loading else {"model_digest": self.digest}

    async def score(self, attempt: Attempt, router: int) -> pa.Table:
        """A parcel's way there and back."""
        table = attempt.request()
        await self._reached(router)
        result: pa.Table = await self._while_alive(
            self._work(table, trial_of=str(router) if attempt.trial else None)
        )
        await self._reached(router)
        return result

    async def reserve(self, router: int) -> None:
        """Returns once it is at nothing else; begins nothing else for a while."""
        await self._reached(router)
        await self._while_alive(self._reservation.reserve(str(router), self._drained))
        await self._reached(router)

    async def _while_alive(self, doing: Coroutine[Any, Any, Any]) -> Any:
        work = asyncio.ensure_future(doing)
        death = asyncio.ensure_future(self._died.wait())
        try:
            await asyncio.wait((work, death), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                # The news of a death comes to each caller in its own time.
                await asyncio.sleep(self._chance.choice((0, 0, 0.05, 0.8)))
                raise Died
            return work.result()
        finally:
            work.cancel()
            death.cancel()

    async def _reached(self, router: int) -> None:
        """One message between a router and this process."""
        await asyncio.sleep(self._chance.choice((0, 0, 1e-3, 5e-3)))
        if self.draining:
            raise Refused
        await self._runs.wait()
        if not self.alive:
            raise Died
        if router in self.cut_off:
            raise Unreachable

    async def _work(self, table: pa.Table, *, trial_of: str | None) -> pa.Table:
        try:
            async with self._reservation.work(trial_of=trial_of):
                return await self._forward(table)
        except NotReserved:
            raise Refused from None

    async def _forward(self, table: pa.Table) -> pa.Table:
        await self._served.wait()
        outputs = np.array(table["output"].to_pylist(), dtype=np.int64)
        async with self._engine:
            seconds = (S_PER_FORWARD + S_PER_ROW * len(outputs)) * self.slow
            await asyncio.sleep(seconds * self._chance.uniform(0.5, 1.5))
            await self._runs.wait()
            if KILLS in outputs:
                self.kill()
            if HANGS in outputs and not self.hung:
                self._hang()
            if self.hung or not self.alive:
                await asyncio.Event().wait()
            if FAILS in outputs:
                raise IndexError("a bug that one record wakes")
            return self._answer(table)

    async def _drained(self) -> None:
        if self.hung:
            await asyncio.Event().wait()

    def _hang(self) -> None:
        """The engine is stuck, whoever waits for it; the watchdog ends the process."""
        self.hung = True
        asyncio.get_running_loop().call_later(WATCHDOG_S, self.kill)

    def _answer(self, table: pa.Table) -> pa.Table:
        outputs = np.array(table["output"].to_pylist(), dtype=np.int64)
        result = scored(table, expected(outputs, self.digest), self.digest)
        kind, self.garbage = self.garbage, None
        if kind is None:
            return result
        self._num_lies += 1
        return GARBAGE[kind](result, f"{self.name}'s lie {self._num_lies}")


def _reordered(result: pa.Table) -> pa.Table:
    return result.take(pa.array(np.roll(np.arange(result.num_rows), 1)))


def _not_a_number(result: pa.Table) -> pa.Table:
    values = result["score"].to_numpy().copy()
    values[-1] = np.nan
    at = result.column_names.index("score")
    return result.set_column(at, "score", pa.array(values, pa.float32()))


def _stale(result: pa.Table, digest: str) -> pa.Table:
    # Never the same twice: a digest that two answers agree in is one that no router can doubt.
    return result.replace_schema_metadata({"polar_ray.model_digest": digest})


GARBAGE: dict[str, Callable[[pa.Table, str], pa.Table]] = {
    "too few rows": lambda result, _: result.slice(1),
    "too many rows": lambda result, _: pa.concat_tables([result, result]),
    "another order": lambda result, _: _reordered(result),
    "not a number": lambda result, _: _not_a_number(result),
    "a stale digest": _stale,
    "other columns": lambda result, _: result.drop_columns(["score"]),
}
"""What a replica may answer; given the right result and a digest that is nobody's."""


class Serve:
    """Starts replicas, replaces the dead, and tells routers who there is, each in its own time."""

    def __init__(self, size: int, digest: str, chance: random.Random) -> None:
        self._chance, self.digest, self.size = chance, digest, size
        self._number = 0
        self.replicas: dict[str, Replica] = {}
        self.removed: dict[str, Replica] = {}
        self._listeners: list[Callable[[list[str]], object]] = []
        self.deaths = 0
        for _ in range(size):
            self._add()

    def _add(self) -> None:
        name = f"r{self._number}"
        self._number += 1
        self.replicas[name] = Replica(name, self.digest, self._chance)

    def listen(self, tell: Callable[[list[str]], object]) -> None:
        """Tells a router now and at each change."""
        self._listeners.append(tell)
        tell(list(self.replicas))

    def _publish(self) -> None:
        for tell in self._listeners:
            delay = self._chance.choice((0, 0.01, 0.3, 1.0))
            asyncio.get_running_loop().call_later(delay, self._tell, tell)

    def _tell(self, tell: Callable[[list[str]], object]) -> None:
        tell(list(self.replicas))

    def find(self, name: str) -> Replica:
        """The replica, wherever it is by now; `Refused` if it never was."""
        found = self.replicas.get(name) or self.removed.get(name)
        if found is None:
            raise Refused
        return found

    async def run(self) -> None:
        """The controller's loop: the dead are noticed, and others started in their place."""
        while True:
            await asyncio.sleep(self._chance.uniform(0.2, 1.0))
            dead = [r for r in self.replicas.values() if not r.alive]
            for replica in dead:
                self.deaths += 1
                self._remove(replica)
            if len(self.replicas) < self.size:
                await asyncio.sleep(self._chance.uniform(0.5, 4.0))
                while len(self.replicas) < self.size:
                    self._add()
                self._publish()

    def _remove(self, replica: Replica) -> None:
        del self.replicas[replica.name]
        self.removed[replica.name] = replica
        self._publish()

    async def drain(self, replica: Replica) -> None:
        """Takes a replica out; it finishes what it has, for a while."""
        if replica.name not in self.replicas:
            return
        self._remove(replica)
        await asyncio.sleep(self._chance.uniform(0, 2))
        replica.draining = True
        asyncio.get_running_loop().call_later(20, replica.kill)

    async def roll(self, digest: str) -> None:
        """A rolling update: new replicas with another model, then the old ones leave."""
        self.digest = digest
        for old in list(self.replicas.values()):
            self._add()
            self._publish()
            await asyncio.sleep(self._chance.uniform(0.1, 2))
            await self.drain(old)

    async def swap(self, digest: str) -> None:
        """Another model in place, one replica after the other."""
        self.digest = digest
        for replica in list(self.replicas.values()):
            await replica.swap(digest, self._chance.uniform(0.1, 3))

    def each(self, kind: Callable[[Replica], bool] = lambda _: True) -> Iterable[Replica]:
        """The replicas of a kind."""
        return [replica for replica in self.replicas.values() if kind(replica)]
