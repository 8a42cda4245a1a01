"""The same checkpoints through pools of every engine: the same scores, or refused by name.

`POLAR_RAY_SGLANG` and `POLAR_RAY_VLLM` name the environments that have the real ones.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_mild_checkpoint, make_tokenizer
from engines.checkpoint import make_readable
from engines.real_servers import Kind, real_server
from sample_records import GROUPS

from polar_ray.client import connect
from polar_ray.config import (
    EngineConfig,
    NativeEngineConfig,
    PoolConfig,
    RemoteEngineConfig,
    ScorerConfig,
    SGLangEngineConfig,
)
from polar_ray.errors import ConfigError
from polar_ray.model import load_config
from polar_ray.pool.local import pool
from polar_ray.scorer import Scorer

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]

TOLERANCE = 1e-4
RECORDS = [{**record, "output": f"{record['output']} {i}"} for i in range(4) for record in GROUPS]

GOLDEN = ["gqa", "mqa", "deep", "rope_linear", "mha_bias", "rope_dynamic"]
MADE: dict[str, dict[str, Any]] = {
    "made_gqa": {},
    "made_mqa": {"num_key_value_heads": 1},
    "made_linear": {"rope_kind": "linear", "rope_factor": 2.0},
    "made_theta": {"rope_theta": 1e4, "num_hidden_layers": 3},
    "made_bias": {"bias": True},
    "made_dynamic": {"rope_kind": "dynamic", "rope_factor": 2.0, "max_position_embeddings": 512},
}
BIASES, DYNAMIC = "biases.*(are left out|leaves out)", "dynamic RoPE|rope_scaling|rotary"
REFUSED = {
    "mha_bias": BIASES,
    "made_bias": BIASES,
    "rope_dynamic": DYNAMIC,
    "made_dynamic": DYNAMIC,
}
"""By every foreign engine, and in which words."""

NARROW = set(GOLDEN)
"""vllm's CPU build starts with heads of 16, and dies of the first record."""


@pytest.fixture(params=[*GOLDEN, *MADE])
def folder(request: pytest.FixtureRequest, golden: Path, tmp_path: Path) -> Path:
    """A checkpoint that every engine can read."""
    name: str = request.param
    target = tmp_path / name
    if name in MADE:
        return make_mild_checkpoint(target, **MADE[name])
    shutil.copytree(golden / "model" / name, target)
    make_tokenizer(target)
    make_readable(target)
    return target


def environment(kind: str) -> Path:
    name = f"POLAR_RAY_{kind.upper()}"
    if name not in os.environ:
        pytest.skip(f"{name}=DIR names no environment that has {kind}")
    return Path(os.environ[name])


def through_pool(folder: Path, engine: EngineConfig, name: str) -> np.ndarray:
    config = PoolConfig(model=str(folder), engine=engine, num_cpus=0.1)
    with pool(config, name=name, route_prefix=f"/{name}") as url, connect(address=url) as client:
        return np.array(client.score(RECORDS, timeout_s=300))


def engine_of(kind: str, folder: Path, tmp_path: Path, stack: ExitStack) -> EngineConfig:
    """Its settings, with a real server where it needs one."""
    if kind == "native":
        return NativeEngineConfig()
    if kind == "sglang":
        return SGLangEngineConfig(python=str(environment("sglang") / "bin" / "python"))
    server: Kind = "sglang" if kind == "remote-sglang" else "vllm"
    shape = load_config(folder)
    # Dynamic RoPE shows beyond the model's own positions, as far as its factor lets servers go.
    dynamic = shape.rope_kind == "dynamic"
    window = int(shape.max_position_embeddings * shape.rope_factor) if dynamic else 2048
    real = stack.enter_context(
        real_server(server, environment(server), folder, tmp_path, window=window)
    )
    return RemoteEngineConfig(server=server, addresses=(real.url,))


@pytest.mark.parametrize("kind", ["native", "sglang", "remote-sglang", "remote-vllm"])
def test_every_engine_gives_the_same_scores(
    cluster: None, folder: Path, tmp_path: Path, kind: str, figure: Callable[[str], None]
) -> None:
    with ExitStack() as stack:
        engine = engine_of(kind, folder, tmp_path, stack)
        dies = kind == "remote-vllm" and folder.name in NARROW
        reason = "no server can be used" if dies else REFUSED.get(folder.name)
        if kind != "native" and reason is not None:
            with pytest.raises(ConfigError, match=reason):
                Scorer(ScorerConfig(model=str(folder), engine=engine))
            return
        found = through_pool(folder, engine, "parity")
    truth = np.array(Scorer(ScorerConfig(model=str(folder))).score(RECORDS)["score"].to_pylist())
    worst = float(np.abs(found - truth).max())
    figure(f"largest difference {worst:.2g}")
    assert worst <= TOLERANCE
