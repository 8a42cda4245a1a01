"""Rows one by one against the same rows in batches: what a trainer loses that calls for each row.

    python benchmarks/rows.py --at 64:1,512:8,4096:8
    python benchmarks/rows.py --at 64:1 --ways batches,connect --routers 2

verl, slime and OpenRLHF score each rollout with a call of its own, thousands at once. Here so many
rows are in flight from so many processes (64:1 is 64 from one), to a pool of real replicas (the
built-in model, one thread each, its prefix cache on), by every way of `benchmarks/singles/ways.py`.
Rows come in groups of 8, and no group comes twice. Prints rows a second, their share of what the
same number of rows in batches of 64 gets, the callers' CPU time, and how many tokens the replicas
computed for each that had to be; then the latency of a lone call over one of Serve's that does
nothing, on a pool of stub replicas. The last line is the same as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import ray
import typer
from engines.workloads import unique_tokens
from ray import serve
from rich.console import Console
from singles.caller import WARM_UP, Caller
from singles.report import Found, shares, show, together
from singles.ways import WAYS, Pool
from singles.workload import GROUP, Stage, dealt, read_stages, rows

from polar_ray.config import NativeEngineConfig, PoolConfig, ScorerConfig, StubEngineConfig
from polar_ray.pool import app as pool_app
from polar_ray.pool.local import pool
from polar_ray.pool.replica.deployment import Replica
from polar_ray.scorer import Scorer

BATCH = 64
CACHE_BYTES = 256 << 20
LONE_CALLS = 200


class Counting(Replica):
    """Says what its engine has counted."""

    async def counted(self) -> dict[str, int]:
        """Sums since its start."""
        return dict(self._loaded.scorer.counters) if self._loaded is not None else {}


@contextmanager
def serving(
    name: str, engine: NativeEngineConfig | StubEngineConfig, replicas: int, routers: int
) -> Iterator[Pool]:
    """A pool for one part of the benchmark."""
    config = PoolConfig(num_replicas=replicas, num_routers=routers, num_cpus=0.5, engine=engine)
    with pool(config, name=name, route_prefix=f"/{name}") as url:
        yield Pool(name, url)


class Bench:
    """Stages on one pool."""

    def __init__(self, where: Pool, total: int) -> None:
        self._where, self._total = where, total
        self._first = 0
        self._encoder = Scorer(ScorerConfig(engine=NativeEngineConfig(num_threads=1))).encoder
        self._replicas = serve.get_deployment_handle(Counting.__name__, where.name)

    def run(self, stage: Stage, ways: list[str]) -> Iterator[Found]:
        """Every way, one after the other, each with rows of its own."""
        callers = [Caller.remote(self._where) for _ in range(stage.processes)]
        ray.get([caller.ready.remote() for caller in callers])
        for way in ways:
            yield self._one(stage, way, callers)
        for caller in callers:
            ray.kill(caller)

    def _one(self, stage: Stage, way: str, callers: list[Any]) -> Found:
        deals = dealt(self._first, stage, self._total)
        count = sum(each for _, each in deals)
        self._first += count // GROUP
        before = self._tokens()
        spans = ray.get(
            [
                caller.run.remote(way, first, each, stage.each, min(BATCH, stage.each))
                for caller, (first, each) in zip(callers, deals, strict=True)
            ]
        )
        seconds, cpu_s = together(spans)
        unique = sum(self._unique(first, each) for first, each in deals)
        unique += sum(self._unique(WARM_UP + first, 1) for first, _ in deals)
        return Found(str(stage), way, count, seconds, cpu_s, self._tokens() - before, unique)

    def _tokens(self) -> int:
        answers = self._replicas.broadcast("counted").results(timeout_s=60)
        return sum(counted.get("tokens_computed", 0) for counted in answers)

    def _unique(self, first: int, count: int) -> int:
        table = pa.Table.from_pylist(rows(first, max(count, GROUP))[:count])
        return unique_tokens([row.ids for row in self._encoder.encode(table)])


def lone(where: Pool, ways: list[str]) -> dict[str, float]:
    """Medians in ms: of a call of the router that does nothing, and of one row by each way."""
    caller = Caller.remote(where)
    found = {"nothing": ray.get(caller.no_op.remote(LONE_CALLS))}
    for number, way in enumerate(ways):
        if way != "batches":
            first = 2_000_000 + number * LONE_CALLS
            found[way] = ray.get(caller.lone.remote(way, first, LONE_CALLS))
    ray.kill(caller)
    return found


def main(
    at: Annotated[str, typer.Option(help="rows in flight:processes")] = "64:1,512:8,4096:8",
    ways: Annotated[str, typer.Option()] = ",".join(WAYS),
    rows_each: Annotated[int, typer.Option(help="rows of a stage and way, at the least")] = 1024,
    replicas: Annotated[int, typer.Option()] = 1,
    routers: Annotated[int, typer.Option()] = 1,
) -> None:
    """Measures stage by stage."""
    stages, chosen = read_stages(at), ways.split(",")
    pool_app.Replica = Counting  # type: ignore[misc]
    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    found: list[Found] = []
    engine = NativeEngineConfig(num_threads=1, prefix_cache_bytes=CACHE_BYTES)
    # Both within one start of Serve; the stub pool has nothing to do meanwhile.
    with serving("lone", StubEngineConfig(), 1, routers) as idle:
        with serving("rows", engine, replicas, routers) as where:
            bench = Bench(where, rows_each)
            for stage in stages:
                for one in bench.run(stage, chosen):
                    found.append(one)
                    sys.stderr.write(f"{one.stage} {one.way}: {one.rate:.1f} rows/s\n")
        Console(width=120).print(show(found))
        latencies = lone(idle, chosen)
    over = {way: round(ms - latencies["nothing"], 2) for way, ms in latencies.items()}
    sys.stdout.write(f"a lone call, p50 in ms, over one that does nothing: {over}\n")
    figures = {"found": [asdict(one) for one in found], "shares": shares(found), "lone": latencies}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    typer.run(main)
