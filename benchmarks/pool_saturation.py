"""A pool's throughput against its bare scorer's: one real replica, kept busy, on the same rows.

    python benchmarks/pool_saturation.py --data ../shared/data/rollouts.parquet --groups 16

Both run the native engine with one thread, in turns, a few rounds each, so that the router and the
callers have a core beside the replica's. Prints each round, and the ratio of the medians as one
line of JSON at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import ray
import typer
from pool_parity import rollouts

from polar_ray.client import Client, connect
from polar_ray.config import NativeEngineConfig, PoolConfig, ScorerConfig
from polar_ray.pool.local import pool
from polar_ray.scorer import Scorer

NAME = "saturated"


async def saturate(client: Client, batches: list[pa.Table], callers: int) -> None:
    """All batches, from callers that each send the next as soon as one is answered."""
    left = iter(batches)

    async def caller() -> None:
        for batch in left:
            await client.score_table_async(batch)

    await asyncio.gather(*(caller() for _ in range(callers)))


def main(
    data: Annotated[Path, typer.Option()] = Path("../shared/data/rollouts.parquet"),
    groups: Annotated[int, typer.Option()] = 16,
    batch_groups: Annotated[int, typer.Option(help="groups of a batch")] = 4,
    callers: Annotated[int, typer.Option()] = 3,
    rounds: Annotated[int, typer.Option()] = 3,
    model: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Measures in turns."""
    table = rollouts(data, groups).select(["prompt", "reference", "output"])
    size = table.num_rows * batch_groups // groups
    batches = [table.slice(start, size) for start in range(0, table.num_rows, size)]
    engine = NativeEngineConfig(num_threads=1)
    scorer = Scorer(ScorerConfig(model=model, engine=engine))
    took: dict[str, list[float]] = {"scorer": [], "pool": []}
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    with pool(PoolConfig(model=model, engine=engine), name=NAME, route_prefix="/saturated"):
        client = connect(app_name=NAME)
        asyncio.run(saturate(client, batches, callers))
        for _ in range(rounds):
            began = time.perf_counter()
            for batch in batches:
                scorer.score(batch)
            took["scorer"].append(time.perf_counter() - began)
            began = time.perf_counter()
            asyncio.run(saturate(client, batches, callers))
            took["pool"].append(time.perf_counter() - began)
            print(
                {name: f"{table.num_rows / times[-1]:.1f} rows/s" for name, times in took.items()}
            )
    rates = {name: table.num_rows / statistics.median(times) for name, times in took.items()}
    figures = {**rates, "ratio": rates["pool"] / rates["scorer"], "rows": table.num_rows}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    typer.run(main)
