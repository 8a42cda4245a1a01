"""Two real vllm and one real sglang server behind one pool; one is killed, one stopped for a while.

`POLAR_RAY_VLLM` and `POLAR_RAY_SGLANG` name the environments that have them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_mild_checkpoint
from engines.real_servers import Kind, RealServer, real_server

from polar_ray.client import connect
from polar_ray.config import PoolConfig, RemoteEngineConfig, ScorerConfig
from polar_ray.pool.local import pool
from polar_ray.scorer import Scorer

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]

BATCH = 32
CALLERS = 6
QUIET_S, HURT_S, LAST_S = 5.0, 10.0, 10.0
"""Seconds of load before, between and after what is done to servers."""

TOLERANCE = 1e-4


def environment(kind: str) -> Path:
    name = f"POLAR_RAY_{kind.upper()}"
    if name not in os.environ:
        pytest.skip(f"{name}=DIR names no environment that has {kind}")
    return Path(os.environ[name])


def records(call: int) -> list[dict[str, str]]:
    """Groups of eight that no other call has."""
    return [
        {
            "prompt": f"Add {call} and {i // 8}.",
            "reference": str(call + i // 8),
            "output": f"I think it is {call + i}.",
        }
        for i in range(BATCH)
    ]


async def load(url: str, until: asyncio.Event) -> tuple[dict[int, list[float]], list[float]]:
    """What came back of each call, and how long each took."""
    found: dict[int, list[float]] = {}
    took: list[float] = []
    numbers = iter(range(1 << 30))
    with connect(address=url) as client:

        async def call_again_and_again() -> None:
            while not until.is_set():
                number = next(numbers)
                began = time.monotonic()
                found[number] = await client.score_async(records(number), timeout_s=300)
                took.append(time.monotonic() - began)

        await asyncio.gather(*(call_again_and_again() for _ in range(CALLERS)))
    return found, took


def wrong(found: dict[int, list[float]], scorer: Scorer) -> tuple[int, float]:
    """Scores that are off, and the largest difference."""
    off, worst = 0, 0.0
    for number, scores in found.items():
        truth = np.array(scorer.score(records(number))["score"].to_pylist())
        apart = np.abs(np.array(scores) - truth)
        off += int((apart > TOLERANCE).sum())
        worst = max(worst, float(apart.max()))
    return off, worst


async def hurt(
    url: str, kill: RealServer, stop: RealServer
) -> tuple[dict[int, list[float]], list[float]]:
    over = asyncio.Event()
    loading = asyncio.create_task(load(url, over))
    try:
        await asyncio.sleep(QUIET_S)
        kill.signal(signal.SIGKILL)
        await asyncio.sleep(HURT_S)
        stop.signal(signal.SIGSTOP)
        await asyncio.sleep(HURT_S)
        stop.signal(signal.SIGCONT)
        await asyncio.sleep(LAST_S)
    finally:
        over.set()
    return await loading


def test_servers_that_are_killed_and_stopped_lose_nothing(
    cluster: None, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    kinds: list[Kind] = ["vllm", "vllm", "sglang"]
    folder = make_mild_checkpoint(tmp_path / "model")
    with ExitStack() as stack:
        servers = [
            stack.enter_context(real_server(kind, environment(kind), folder, tmp_path))
            for kind in kinds
        ]
        addresses = tuple(f"{server.kind}+{server.url}" for server in servers)
        engine = RemoteEngineConfig(server="vllm", addresses=addresses)
        config = PoolConfig(model=str(folder), engine=engine, num_cpus=0.1)
        url = stack.enter_context(pool(config, name="real", route_prefix="/real"))
        found, took = asyncio.run(hurt(url, servers[0], servers[1]))
    off, worst = wrong(found, Scorer(ScorerConfig(model=str(folder))))
    rows = sum(map(len, found.values()))
    figure(
        f"{rows} records, {off} wrong, largest difference {worst:.2g}, worst call {max(took):.1f} s"
    )
    assert all(len(scores) == BATCH for scores in found.values())
    assert off == 0
