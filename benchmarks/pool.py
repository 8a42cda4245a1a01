"""What the pool costs around its engines: stub replicas, so that all that is measured is the pool.

    python benchmarks/pool.py replicas=1,4,16 seconds=10

For each number of replicas: records a second in batches of 1 024 from 12 callers; the router
process's CPU time for each record and for each call of one record (all its threads, by
`time.process_time`); the latency of a lone call of one record, and of one batch that is cut into
two shards for each replica. The model is the built-in one's tokenizer without its network. Prints
a table, and the same as one line of JSON at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import ray
from ray import serve
from rich.console import Console
from rich.table import Table

from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.pool.local import pool

BATCH = 1024
CALLERS = 12


def batch(size: int) -> pa.Table:
    """Records of about 100 bytes in groups of 8."""
    rows = [
        {
            "prompt": f"What is {i // 8} plus {i // 8}?",
            "reference": f"{i // 4}",
            "output": f"It is {i}, I think.",
        }
        for i in range(size)
    ]
    return pa.Table.from_pylist(rows)


async def stats(handle: Any) -> dict[str, float]:
    found: dict[str, float] = await handle.stats.remote()
    return found


async def repeat(
    call: Callable[[], Awaitable[Any]], *, callers: int, seconds: float
) -> list[float]:
    """Latencies, in s, of as many calls as `callers` make one after the other in that time."""
    until = time.perf_counter() + seconds
    latencies: list[float] = []

    async def caller() -> None:
        while (began := time.perf_counter()) < until:
            await call()
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return latencies


async def measure(handle: Any, seconds: float) -> dict[str, float]:
    """All figures of one pool."""
    full, single = batch(BATCH), batch(1)
    # Each caller has the router look its table up in the object store, as RL workers do.
    ref = ray.put(full)
    found: dict[str, float] = {}
    await repeat(lambda: handle.score.remote(ref), callers=CALLERS, seconds=2)

    before, began = await stats(handle), time.perf_counter()
    calls = await repeat(lambda: handle.score.remote(ref), callers=CALLERS, seconds=seconds)
    after, took = await stats(handle), time.perf_counter() - began
    rows = len(calls) * BATCH
    found["records/s"] = rows / took
    found["router us/record"] = (after["cpu_s"] - before["cpu_s"]) / rows * 1e6

    before = await stats(handle)
    calls = await repeat(lambda: handle.score.remote(single), callers=64, seconds=seconds)
    after = await stats(handle)
    found["single calls/s"] = len(calls) / seconds
    found["router us/call"] = (after["cpu_s"] - before["cpu_s"]) / len(calls) * 1e6
    found["records/parcel"] = len(calls) / max(1, after["parcels"] - before["parcels"])

    for name, table in (("lone", single), ("batch", ref)):
        calls = await repeat(
            lambda table=table: handle.score.remote(table),  # type: ignore[misc]
            callers=1,
            seconds=seconds / 2,
        )
        cuts = statistics.quantiles(calls, n=100)
        found[f"{name} p50 ms"], found[f"{name} p99 ms"] = cuts[49] * 1e3, cuts[98] * 1e3
    return found


def main(arguments: list[str]) -> None:
    """`replicas=1,4,16 seconds=10`"""
    given = dict(pair.split("=", 1) for pair in arguments)
    seconds = float(given.get("seconds", "10"))
    counts = [int(n) for n in given.get("replicas", "1,4,16").split(",")]
    ray.init(num_cpus=max(counts) + 8, include_dashboard=False, log_to_driver=False)
    figures: dict[int, dict[str, float]] = {}
    for count in counts:
        config = PoolConfig(num_replicas=count, num_cpus=0.01, engine=StubEngineConfig())
        with pool(config, name="bench", route_prefix="/bench"):
            handle = serve.get_app_handle("bench")
            figures[count] = asyncio.run(measure(handle, seconds))
    table = Table("replicas", *(str(count) for count in counts))
    for name in figures[counts[0]]:
        table.add_row(name, *(f"{figures[count][name]:.4g}" for count in counts))
    Console().print(table)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
