"""What is so for all adapters: what they import, what is not there, that a deadline ends a call."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adapters.recorded import Bytes, ids_of, objects
from fake_pool import FakePool

from polar_ray.adapters import (
    areal,
    ms_swift,
    nemo_gym,
    nemo_rl,
    roll,
    skyrl,
    slime,
    trl,
    verl,
    xtuner,
)
from polar_ray.errors import PoolError

ADAPTERS = Path(trl.__file__).parent
SAMPLE = SimpleNamespace(prompt="2+2=", response="four", label="4")
BATCH = SimpleNamespace(
    batch={"responses": ids_of(["four"]), "prompts": ids_of(["2+2="])},
    non_tensor_batch={"ground_truth": objects("4")},
)


def test_all_import_without_torch_ray_or_a_trainer() -> None:
    names = [f"polar_ray.adapters.{path.stem}" for path in ADAPTERS.glob("[a-z]*.py")]
    heavy = ["torch", "ray", "fastapi", "verl", "trl", "roll", "slime", "xtuner", "nemo_rl"]
    program = f"import sys, {', '.join(names)}; assert not sys.modules.keys() & {set(heavy)}"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ADAPTERS.parents[1])


@pytest.mark.parametrize("module", [areal, verl, skyrl, xtuner, nemo_rl, nemo_gym, roll])
def test_other_names_are_not_there(module: Any) -> None:
    with pytest.raises(AttributeError, match="PolarNothing"):
        _ = module.PolarNothing


@pytest.mark.parametrize(
    "call",
    [
        lambda: trl.polar_reward(["2+2="], ["four"], reference=["4"]),
        lambda: asyncio.run(verl.compute_score("polar", "four", "4", {"prompt": "2+2="})),
        lambda: asyncio.run(slime.polar(Namespace(), SAMPLE)),
        lambda: areal.polar_reward("2+2=", "four", [1], [2], answer="4"),
        lambda: ms_swift.PolarReward()(["four"], messages=["2+2="], reference=["4"]),
        lambda: roll.rewards_of(BATCH, Bytes()),
    ],
    ids=["trl", "verl", "slime", "areal", "ms_swift", "roll"],
)
def test_a_deadline_ends_every_call(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]
) -> None:
    pool.silent = True
    monkeypatch.setenv("POLAR_RAY_TIMEOUT_S", "0.05")
    with pytest.raises(PoolError, match=r"within 0\.0\d s"):
        call()
