"""One process that scores rows, as a Ray actor: what an RL worker of the same cluster is."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import ray

from singles.ways import WAYS, Call, Pool, Rows
from singles.workload import GROUP, batches, rows

WARM_UP = 1_000_000
"""Groups from here on are scored before a measurement; none has so many."""


async def drain(call: Call, left: Iterable[Rows], callers: int) -> int:
    """Has so many callers take one piece of work after the other; how many rows were scored."""
    waiting = iter(left)

    async def caller() -> int:
        return sum([len(await call(piece)) for piece in waiting])

    return sum(await asyncio.gather(*(caller() for _ in range(callers))))


@ray.remote(num_cpus=0)
class Caller:
    """Scores rows by a way of `WAYS`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ready(self) -> int:
        """This process is there: its id."""
        return os.getpid()

    async def run(
        self, way: str, first: int, count: int, in_flight: int, batch: int
    ) -> list[float]:
        """Scores `count` rows from group `first` on, so many at a time, in pieces of one row or, by
        the way "batches", of `batch`. When it began and ended, by the wall clock, and the seconds
        of CPU that it took."""
        found = rows(first, count)
        pieces: list[Rows] = [[row] for row in found]
        callers = in_flight
        if way == "batches":
            pieces = list(batches(found, batch))
            callers = max(1, in_flight // batch)
        async with WAYS[way](self._pool) as call:
            await call(rows(WARM_UP + first, GROUP)[:1])  # connections, handles, caches
            began, cpu = time.time(), time.process_time()
            scored = await drain(call, pieces, callers)
            ended, spent = time.time(), time.process_time() - cpu
        if scored != count:
            raise RuntimeError(f"{way}: {scored} of {count} rows were scored")
        return [began, ended, spent]

    async def lone(self, way: str, first: int, count: int) -> float:
        """The median of so many calls of one row, one after the other, in ms."""
        async with WAYS[way](self._pool) as call:
            found = rows(first, count)
            await drain(call, [[row] for row in found[:5]], 1)
            return await _median([lambda row=row: call([row]) for row in found])

    async def no_op(self, count: int) -> float:
        """The median of calls of the router that do nothing, in ms."""
        from ray import serve

        stats = serve.get_app_handle(self._pool.name).stats
        await stats.remote()
        return await _median([lambda: stats.remote()] * count)


async def _median(calls: Sequence[Callable[[], Awaitable[Any]]]) -> float:
    took = []
    for call in calls:
        began = time.perf_counter()
        await call()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3
