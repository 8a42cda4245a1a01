"""What the pool costs around its engines: stub replicas, so that all that is measured is the pool.

    python benchmarks/pool.py replicas=1,4,16,64 seconds=10

For each number of replicas, with the CPU time of the router's process (all its threads, by
`time.process_time`):

* records a second in batches of 1 024 from 12 callers;
* calls of one record, 64 at a time: through `connect(...)`, which joins them, through the bare
  handle, which does not, and as JSON over HTTP from somebody else's client; beside them, calls of
  the router that do nothing;
* the latency of a lone call of one record, and of what it is made of: a call of the router that
  does nothing, and a shard that goes straight to a replica; and that of one batch that is cut into
  two shards for each replica;
* dispatch: how long after the first shard has reached its replica each replica has one, and the
  last has come. There the replicas wait before they score, so that the router has a core, as it has
  where they are GPUs.

The model is the built-in one's tokenizer without its network. Prints a table, and the same as one
line of JSON at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import pyarrow as pa
import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from rich.console import Console
from rich.table import Table

from polar_ray.client import connect
from polar_ray.config import PoolConfig, ScorerConfig, StubEngineConfig
from polar_ray.pool import app as pool_app
from polar_ray.pool.local import pool
from polar_ray.pool.replica.deployment import Replica
from polar_ray.pool.router import running
from polar_ray.stream import encode_arrow

BATCH = 1024
CALLERS = 12
SINGLES = 64
NAME = "bench"

Call = Callable[[], Awaitable[Any]]


class Stamped(Replica):
    """Keeps when each shard came, and waits a while before it scores it, if asked to."""

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__(config)
        self._came: list[float] = []
        self._wait_s = 0.0

    async def score(self, shard: Any, **options: Any) -> bytes:
        self._came.append(time.time())
        await asyncio.sleep(self._wait_s)
        return await super().score(shard, **options)

    async def stamps(self, wait_s: float) -> list[float]:
        """When shards came since the last time that this was asked."""
        self._wait_s = wait_s
        came, self._came = self._came, []
        return came


def batch(size: int, *, output_bytes: int = 20) -> pa.Table:
    """Records in groups of 8."""
    rows = [
        {
            "prompt": f"What is {i // 8} plus {i // 8}?",
            "reference": f"{i // 4}",
            "output": f"It is {i}, I think.".ljust(output_bytes, "."),
        }
        for i in range(size)
    ]
    return pa.Table.from_pylist(rows)


async def repeat(call: Call, *, callers: int, seconds: float) -> list[float]:
    """Latencies, in s, of as many calls as `callers` make one after the other in that time."""
    until = time.perf_counter() + seconds
    latencies: list[float] = []

    async def caller() -> None:
        while (began := time.perf_counter()) < until:
            await call()
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return latencies


class Bench:
    """One pool's figures."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url, self._seconds = url, seconds
        self._handle = serve.get_app_handle(NAME)
        # A handle of the replicas' deployment makes this process hear who they are, too.
        self._replicas = serve.get_deployment_handle(Stamped.__name__, NAME)
        self._names: list[str] = []
        running.watch(NAME, lambda found: self._names.__setitem__(slice(None), found))
        self.figures: dict[str, float] = {}

    async def _load(self, name: str, call: Call, callers: int, rows: int = 1) -> None:
        """Rate, router time and parcels of calls that come as fast as they are answered."""
        await repeat(call, callers=callers, seconds=1)
        before, began = await self._handle.stats.remote(), time.perf_counter()
        number = len(await repeat(call, callers=callers, seconds=self._seconds)) * rows
        took, after = time.perf_counter() - began, await self._handle.stats.remote()
        self.figures[f"{name}/s"] = number / took
        self.figures[f"router us a {name}"] = (after["cpu_s"] - before["cpu_s"]) / number * 1e6
        parcels = after["parcels"] - before["parcels"]
        if parcels:
            self.figures[f"{name}s a parcel"] = number / parcels

    async def _latency(self, name: str, call: Call) -> None:
        cuts = statistics.quantiles(await repeat(call, callers=1, seconds=self._seconds / 2), n=100)
        self.figures[f"{name}, p50 ms"] = cuts[49] * 1e3
        self.figures[f"{name}, p99 ms"] = cuts[98] * 1e3

    def _straight(self, table: pa.Table) -> Call:
        """Sends a shard to a replica without the router."""
        replicas, names = self._replicas, self._names
        return lambda: replicas.options(session_id=names[0]).score.remote(encode_arrow(table))

    async def _dispatch(self, table: Any, times: int = 20) -> None:
        """From the first shard's arrival until each replica has its first one, and until the last
        one is there."""

        async def stamps(wait_s: float) -> list[list[float]]:
            handles = (self._replicas.options(session_id=name) for name in self._names)
            asked = (handle.stamps.remote(wait_s) for handle in handles)
            return [came for came in await asyncio.gather(*asked) if came]

        await stamps(0.1)
        spreads: dict[str, list[float]] = {"each has one": [], "all": []}
        router_s = 0.0
        for _ in range(times):
            before = await self._handle.stats.remote()
            await self._handle.score.remote(table)
            router_s += (await self._handle.stats.remote())["cpu_s"] - before["cpu_s"]
            came = await stamps(0.1)
            began = min(map(min, came))
            spreads["each has one"].append(max(map(min, came)) - began)
            spreads["all"].append(max(map(max, came)) - began)
        await stamps(0.0)
        shards = self.figures["shards of the batch"] = sum(map(len, came))
        self.figures["router us a shard"] = router_s / times / shards * 1e6
        for name, seconds in spreads.items():
            self.figures[f"dispatch until {name}, p50 ms"] = statistics.median(seconds) * 1e3

    async def run(self) -> dict[str, float]:
        """All figures."""
        with suppress(RayServeException):  # a handle learns at its first call who there is
            await self._replicas.options(session_id="nobody").heartbeat.remote()
        client = connect(app_name=NAME)
        score, one = self._handle.score, batch(1)
        # Each caller has the router look its table up in the object store, as RL workers do.
        full, wide = ray.put(batch(BATCH)), ray.put(batch(BATCH, output_bytes=1000))
        await self._load("record", lambda: score.remote(full), CALLERS, BATCH)
        await self._load("joined call", lambda: client.score_table_async(one), SINGLES)
        await self._load("bare call", lambda: score.remote(one), SINGLES)
        await self._load("idle call", lambda: self._handle.stats.remote(), SINGLES)
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=SINGLES)) as http:
            body = {"records": one.to_pylist()}
            await self._load(
                "http call", lambda: http.post(f"{self._url}/score", json=body), SINGLES
            )
        await self._latency("idle call", lambda: self._handle.stats.remote())
        await self._latency("lone shard", self._straight(one))
        await self._latency("lone call", lambda: client.score_table_async(one))
        await self._latency("lone batch", lambda: score.remote(full))
        await self._dispatch(wide)
        return self.figures


def main(arguments: list[str]) -> None:
    """`replicas=1,4,16 seconds=10`"""
    given = dict(pair.split("=", 1) for pair in arguments)
    seconds = float(given.get("seconds", "10"))
    counts = [int(n) for n in given.get("replicas", "1,4,16").split(",")]
    pool_app.Replica = Stamped  # type: ignore[misc]
    ray.init(
        address="local", num_cpus=max(counts) + 8, include_dashboard=False, log_to_driver=False
    )
    figures: dict[int, dict[str, float]] = {}
    for count in counts:
        config = PoolConfig(num_replicas=count, num_cpus=0.01, engine=StubEngineConfig())
        with pool(config, name=NAME, route_prefix="/bench") as url:
            figures[count] = asyncio.run(Bench(url, seconds).run())
    table = Table("replicas", *(str(count) for count in counts))
    for name in figures[counts[0]]:
        table.add_row(name, *(f"{figures[count].get(name, 0):.4g}" for count in counts))
    Console().print(table)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
