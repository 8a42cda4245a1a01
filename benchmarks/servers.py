"""Servers behind a pool against the same servers bare: how much of their throughput is left?

    python benchmarks/servers.py --vllm DIR --groups 32

Starts real servers with a small random model, keeps them busy with as many requests at once as the
pool has at each, first by plain HTTP with ids that are ready, then through a pool over HTTP with
texts. The last line is one JSON document.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from engines.groups import groups
from engines.real_servers import Kind, RealServer, real_server

from polar_ray.client import connect
from polar_ray.client.servers import finite_rewards, request
from polar_ray.config import PoolConfig, RemoteEngineConfig, ScorerConfig
from polar_ray.pool.local import pool
from polar_ray.records import to_batch
from polar_ray.scorer import Scorer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from checkpoints import make_mild_checkpoint

IN_FLIGHT = 4


async def bare(servers: list[RealServer], requests: list[list[list[int]]]) -> float:
    """Seconds for all requests, each server taking the next when it has room."""
    waiting = iter(requests)

    async def work(server: RealServer, http: httpx.AsyncClient) -> None:
        for ids in waiting:
            route, body = request(server.kind, ids, None, activation=False)
            answer = await http.post(server.url + route, json=body)
            finite_rewards(server.kind, answer.json(), len(ids), [len(row) for row in ids])

    began = time.perf_counter()
    async with httpx.AsyncClient(timeout=600) as http:
        await asyncio.gather(*(work(s, http) for s in servers for _ in range(IN_FLIGHT)))
    return time.perf_counter() - began


def main(
    vllm: Annotated[Path | None, typer.Option(help="The environment that has vllm.")] = None,
    sglang: Annotated[Path | None, typer.Option(help="The environment that has sglang.")] = None,
    count: Annotated[int, typer.Option("--groups")] = 32,
    size: Annotated[int, typer.Option()] = 16,
    repeat: Annotated[int, typer.Option()] = 3,
    hidden: Annotated[int, typer.Option(help="Width of the model.")] = 128,
) -> None:
    """Prints records a second of both, the best of several repetitions in turns."""
    environments: dict[Kind, Path] = {}
    if vllm is not None:
        environments["vllm"] = vllm
    if sglang is not None:
        environments["sglang"] = sglang
    if not environments:
        raise typer.BadParameter("name an environment: --vllm DIR or --sglang DIR")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        model = make_mild_checkpoint(
            folder / "model", hidden_size=hidden, intermediate_size=2 * hidden
        )
        scorer = Scorer(ScorerConfig(model=str(model)))
        made = groups(count, size=size)
        records = [record for group in made for record in group]
        requests = [
            [row.ids.tolist() for row in scorer.encode(to_batch(group).table)] for group in made
        ]
        servers = [
            stack.enter_context(real_server(kind, environment, model, folder))
            for kind, environment in environments.items()
        ]
        addresses = tuple(f"{server.kind}+{server.url}" for server in servers)
        engine = RemoteEngineConfig(
            server=servers[0].kind, addresses=addresses, requests_per_address=IN_FLIGHT
        )
        config = PoolConfig(model=str(model), engine=engine, num_cpus=0.5)
        url = stack.enter_context(pool(config))
        client = stack.enter_context(connect(address=url))
        truth = np.array(scorer.score(records)["score"].to_pylist())
        worst, alone_s, pool_s = 0.0, [], []
        for _ in range(repeat):
            alone_s.append(asyncio.run(bare(servers, requests)))
            began = time.perf_counter()
            found = client.score(records, timeout_s=3600)
            pool_s.append(time.perf_counter() - began)
            worst = max(worst, float(np.abs(np.array(found) - truth).max()))
    rates = {"bare": len(records) / min(alone_s), "pool": len(records) / min(pool_s)}
    print(f"bare {rates['bare']:.1f} records/s, behind a pool {rates['pool']:.1f}")
    share = rates["pool"] / rates["bare"]
    print(json.dumps({"records_per_s": rates, "share": share, "largest_difference": worst}))


if __name__ == "__main__":
    typer.run(main)
