"""A whole training by TRL, whose pool loses a replica in the middle: nothing of it shows.

`POLAR_RAY_TRAINERS` names a folder with TRL's environment (`trl/venv`), which has the packages of
this project's base install and no ray.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.observe import GUARD_S, running, since, stats
from processes import kill

from polar_ray.config import NativeEngineConfig, PoolConfig
from polar_ray.pool.local import pool

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "real" / "train_trl.py"
NAME = "trained"
STEPS = 8
KILL_AT = 3


@pytest.fixture(scope="module")
def python() -> Path:
    """TRL's."""
    folder = os.environ.get("POLAR_RAY_TRAINERS")
    if folder is None:
        pytest.skip("POLAR_RAY_TRAINERS names no folder with trainers' environments")
    return Path(folder) / "trl" / "venv" / "bin" / "python"


@pytest.fixture
def url(cluster: None) -> Iterator[str]:
    """A pool of two replicas that divides even small calls, so that both have a part of each."""
    engine = NativeEngineConfig(num_threads=1)
    config = PoolConfig(num_replicas=2, num_cpus=0.1, engine=engine, min_shard_bytes=1)
    with pool(config, name=NAME, route_prefix=f"/{NAME}") as address:
        yield address


def train(python: Path, url: str, at: int | None = None, hit: Any = None) -> dict[str, Any]:
    """What a training logged; `hit` is called when step `at` begins."""
    command = [str(python), str(PROGRAM), url, str(STEPS)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as training:
        assert training.stdout is not None
        last = ""
        for last in training.stdout:
            if last == f"step {at}\n":
                hit()
    assert training.returncode == 0
    found: dict[str, Any] = json.loads(last)
    return found


def kill_with_work_in_hand() -> None:
    """Stops both replicas until they hold a call's parts, ends one and lets the other go on."""
    first, second = sorted(running(NAME))
    for pid in (first, second):
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    while stats(NAME)["attempts"] < 2:
        assert time.monotonic() - began < GUARD_S, "the replicas got no work"
        time.sleep(0.02)
    kill(first)
    os.kill(second, signal.SIGCONT)


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Of all figures of two logs."""
    pairs = list(zip(one["advantages"], other["advantages"], strict=True))
    pairs += [
        (step[key], again[key])
        for step, again in zip(one["steps"], other["steps"], strict=True)
        for key in step
    ]
    return max(abs(x - y) for x, y in [*pairs, (one["weights"], other["weights"])])


def test_a_training_does_not_notice_that_a_replica_dies(
    python: Path, url: str, figure: Callable[[str], None]
) -> None:
    undisturbed = train(python, url)
    before = stats(NAME)
    found = train(python, url, KILL_AT, kill_with_work_in_hand)
    counted = since(NAME, before)
    apart = largest_difference(undisturbed, found)
    figure(
        f"{found['parameters']} weights, {STEPS} steps, a replica killed at step {KILL_AT}, "
        f"{counted['repeats']:.0f} parcels sent again: largest difference of the logs {apart:g}"
    )
    assert len(found["steps"]) == STEPS
    assert all(step["reward_std"] > 0 for step in found["steps"]), "there is nothing to learn from"
    assert counted["repeats"] > 0, "the replica had no work in hand: the test shows nothing"
    assert found["completions"] == undisturbed["completions"]
    # Who shares a pack with a record may change its score's last digits, and nothing else does.
    assert apart < 1e-3
