"""Plans of `polar-ray plan --gpu cpu` against pools that are measured.

    python benchmarks/pool_capacity.py [--seconds 12] [--loads 60,60,120:16,...]

For each load one pool of one replica with one thread, kept busy by callers, and the plan's speed of
such a replica, tried just before. Prints measured over planned: 0.8 to 1.2 is the goal.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Annotated

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import ray
import typer
from pool_saturation import saturate

from polar_ray.assets import builtin_model_dir
from polar_ray.capacity import Load, make_plan, measured
from polar_ray.capacity.trial import Words, tokens_per_word
from polar_ray.client import connect
from polar_ray.config import NativeEngineConfig, PoolConfig
from polar_ray.model import load_config
from polar_ray.pool.local import pool
from polar_ray.scorer import Scorer

NAME = "capacity"
CALLERS = 3
CONFIG = PoolConfig(engine=NativeEngineConfig(device="cpu", num_threads=1))


def load_of(text: str) -> Load:
    """`60,60,120:16`: prompt, reference, output, and how many of a group."""
    tokens, _, group = text.partition(":")
    prompt, reference, output = (int(part) for part in tokens.split(","))
    return Load(1, prompt, reference, output, int(group or 1))


def batches(words: Words, load: Load, rows: int) -> list[pa.Table]:
    """Some of a load's records, in batches of 64 or of a group."""
    size = max(1, 64 // load.group)
    return [words.groups(load, size) for _ in range(max(CALLERS, rows // (size * load.group)))]


def main(
    seconds: Annotated[float, typer.Option(help="of each trial, and of each pool")] = 12,
    loads: Annotated[str, typer.Option()] = (
        "60,60,120:16 200,200,200:8 60,60,120:1 300,500,800:16 30,30,30:4 500,100,100:16"
    ),
) -> None:
    """Measures one load after the other."""
    model = load_config(builtin_model_dir())
    words = Words(tokens_per_word(Scorer(CONFIG.scorer)), np.random.default_rng(5))
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    with pool(CONFIG, name=NAME, route_prefix=f"/{NAME}"):
        client = connect(app_name=NAME)
        for text in loads.split():
            load = load_of(text)
            found = make_plan(CONFIG, model, load, measured=measured(CONFIG, load, seconds=seconds))
            work = batches(words, load, int(found.records_per_s * seconds))
            asyncio.run(saturate(client, work[:CALLERS], CALLERS))
            began = time.perf_counter()
            asyncio.run(saturate(client, work, CALLERS))
            took = time.perf_counter() - began
            speed = sum(batch.num_rows for batch in work) / took
            sys.stdout.write(
                f"{text:16} planned {found.records_per_s:7.1f} records/s, measured {speed:7.1f}: "
                f"{speed / found.records_per_s:.2f}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
