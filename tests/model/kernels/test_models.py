"""Whole models by kernels alone: the golden rewards, and the trial at load passed by each."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from graph_recorder import record

pytest.importorskip("triton", reason="needs triton, which has wheels for Linux on x86-64 alone")

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.graphs import Graphs, try_graphs
from polar_ray.engine.native import NativeEngine
from polar_ray.model import attention_choice, load_config, step_choice
from polar_ray.model.attention_choice import choose_attention, triton_kernels
from polar_ray.model.choice import Call
from polar_ray.model.paths import blocked
from polar_ray.model.step_choice import choose_steps, triton_steps
from polar_ray.model.steps import PLAIN
from polar_ray.planning import pack

GOLDEN = Path(__file__).parents[2] / "golden" / "model"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def group_of(name: str) -> int:
    config = load_config(GOLDEN / name)
    return config.num_attention_heads // config.num_key_value_heads


@pytest.mark.parametrize(
    ("name", "cache"),
    [
        *((name, 0) for name in ("gqa", "mqa", "rope_dynamic")),
        *(
            pytest.param(name, 0, marks=pytest.mark.slow)
            for name in ("deep", "mha_bias", "rope_linear")
        ),
        ("gqa", 1 << 20),
        ("mha_bias", 1 << 20),
    ],
)
def test_golden_rewards(name: str, cache: int) -> None:
    config = NativeEngineConfig(device=DEVICE, dtype="float32", prefix_cache_bytes=cache)
    engine = NativeEngine(config, GOLDEN / name)
    if not engine.model.model.blocks[0].feed_forward.w13:
        engine.model.join_gates()
    engine.model.steps = triton_steps()
    # The last of the tilings: the smallest tiles.
    engine._prepare = list(triton_kernels(group_of(name)).values())[-1]
    cases = json.loads((GOLDEN / name / "rewards.json").read_text())["cases"]
    cases = sorted(cases, key=lambda case: len(case["input_ids"]))[2:4]
    ids = [np.array(case["input_ids"], dtype=np.int32) for case in cases]
    rewards = np.array([case["reward"] for case in cases], dtype=np.float32)
    halves = [len(one) // 2 for one in ids]
    for _ in range(2 if cache else 1):
        found = np.full(len(ids), np.nan, dtype=np.float32)
        for one in pack(ids, max_tokens=10_000, min_share=2, prefix_lengths=halves):
            found[one.records] = engine.submit(one).result()
        np.testing.assert_allclose(found, rewards, atol=1e-4)
    if engine.cache is not None:
        assert engine.cache.hits > 0


def no_time(call: Call) -> float:
    """A clock that finds each call faster than the one before it."""
    call()
    no_time.seconds /= 2  # type: ignore[attr-defined]
    return no_time.seconds  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("gqa", torch.bfloat16),
        pytest.param("mqa", torch.float32, marks=pytest.mark.slow),
        pytest.param("mha_bias", torch.float16, marks=pytest.mark.slow),
    ],
)
def test_each_kernel_passes_its_trial(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_choice, "TIMED_ROWS", 3)
    monkeypatch.setattr(attention_choice, "TIMED_SPANS", ((0, 30, -1), (30, 40, 0)))
    no_time.seconds = 1.0  # type: ignore[attr-defined]
    config = load_config(GOLDEN / name)
    steps = choose_steps(config, DEVICE, dtype, clock=no_time)
    # The interpreter cannot round to float8: see `test_round_rows`.
    assert steps == triton_steps()._replace(round_rows=PLAIN.round_rows)
    kernels = triton_kernels(group_of(name))
    found = choose_attention(
        config, DEVICE, dtype, 1, blocked, kernels=lambda group: kernels, clock=no_time
    )
    assert found is list(kernels.values())[-1]


# A tile with nothing to do divides nothing by nothing, and stores none of it.
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_the_path_kernel_in_graphs() -> None:
    config, folder = load_config(GOLDEN / "gqa"), GOLDEN / "gqa"
    engine = NativeEngine(NativeEngineConfig(device=DEVICE, dtype="float32"), folder)
    engine._prepare = list(triton_kernels(group_of("gqa")).values())[-1]
    make = partial(
        Graphs,
        engine.model,
        engine._prepare,
        config,
        DEVICE,
        torch.float32,
        num_known=60,
        token_counts=[128],
        record=record if DEVICE == "cpu" else None,
    )
    assert try_graphs(make, engine._compute, config) is not None
