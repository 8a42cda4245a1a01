"""Clients of other servers, unmodified, at a live pool: by another address alone.

POLAR's own is read from a clone of its repository, which POLAR_RAY_UPSTREAM names; trainers' run in
their own environments, which POLAR_RAY_TRAINERS holds by their names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import real_clients
from sample_records import GROUPS

from polar_ray import RewardModelClient
from polar_ray.config import PoolConfig
from polar_ray.errors import ScoreError
from polar_ray.pool.local import pool
from polar_ray.scorer import Scorer

pytestmark = pytest.mark.ray

ROUNDING = 1e-4
ONE = {
    "prompt": real_clients.PROMPT,
    "reference": real_clients.REFERENCE,
    "output": real_clients.OUTPUT,
}
SPOKEN = [
    {key: [{"role": "user", "content": text}] for key, text in row.items()} for row in GROUPS[:7]
]


@pytest.fixture(scope="module")
def address(cluster: None, tiny_dir: Path) -> Iterator[str]:
    """host:port/path of a pool with the native engine."""
    config = PoolConfig(model=str(tiny_dir), num_cpus=0.1)
    with pool(config, name="formats", route_prefix="/formats") as url:
        yield url.removeprefix("http://")


@pytest.fixture(scope="module")
def upstream(tiny_dir: Path) -> ModuleType:
    """POLAR's module, as it is."""
    folder = os.environ.get("POLAR_RAY_UPSTREAM")
    if folder is None:
        pytest.skip("POLAR_RAY_UPSTREAM names no clone of InternLM/POLAR")
    pytest.importorskip("requests")
    spec = importlib.util.spec_from_file_location(
        "upstream_reward_func", Path(folder) / "src" / "polar" / "reward_func.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tokenizer_dir(tiny_dir: Path, tmp_path: Path) -> Path:
    """The checkpoint's tokenizer as transformers loads it."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_file=str(tiny_dir / "tokenizer.json"))
    fast.save_pretrained(str(tmp_path))
    return tmp_path


def expected(scorer: Scorer, *rows: dict[str, Any]) -> Any:
    return pytest.approx(scorer.score(list(rows))["score"].to_pylist(), abs=ROUNDING)


@pytest.mark.parametrize("kind", ["sglang", "vllm", "lmdeploy"])
def test_polars_own_client(
    upstream: ModuleType, tokenizer_dir: Path, address: str, scorer: Scorer, kind: str
) -> None:
    at = f"{address}/lmdeploy" if kind == "lmdeploy" else address
    client = upstream.RewardModelClient(str(tokenizer_dir), server_type=kind, server_address=at)
    assert client(SPOKEN) == expected(scorer, *SPOKEN)
    ask = getattr(client, f"{kind}_request_reward")
    # A text without a score is None for all of them, which no trainer takes for a reward.
    assert ask([*client.encode(SPOKEN), "no template"], max_retries=1, retry_delay=0) is None


def test_polars_recipe_for_verl(
    upstream: ModuleType,
    tokenizer_dir: Path,
    address: str,
    scorer: Scorer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream, "MODEL_PATH", str(tokenizer_dir))
    monkeypatch.setattr(upstream, "ADDRESS", address)
    extra = {"ability": "general", "split": "train"}
    extras = [{**extra, "prompt": row["prompt"]} for row in SPOKEN]
    outputs = [f"<think>hm</think>{row['output']}" for row in GROUPS[:7]]
    references = [row["reference"] for row in SPOKEN]
    scores = upstream.compute_score_batch(["x"] * 7, outputs, references, extras)
    stripped = [{**row, "output": row["output"].strip()} for row in GROUPS[:7]]
    assert scores == expected(scorer, *stripped)


def test_our_own_client_at_all_formats(tiny_dir: Path, address: str, scorer: Scorer) -> None:
    for kind in ("ray", "sglang", "vllm", "lmdeploy"):
        at = f"{address}/lmdeploy" if kind == "lmdeploy" else address
        client = RewardModelClient(
            tiny_dir, 256, 64, server_type=kind, server_address=["127.0.0.1:9", at]
        )
        try:
            assert client(SPOKEN) == expected(scorer, *SPOKEN), kind
        finally:
            client.close()


def test_rows_of_a_pool_are_named(tiny_dir: Path, address: str) -> None:
    client = RewardModelClient(tiny_dir, 256, 64, server_address=address)
    with pytest.raises(ScoreError) as caught:
        client([GROUPS[0], {**GROUPS[1], "output": None}])
    assert set(caught.value.rows) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("client", ["verl-vllm", "verl-sglang", "openrlhf", "slime"])
def test_trainers_own_clients(client: str, address: str, scorer: Scorer) -> None:
    folder = os.environ.get("POLAR_RAY_TRAINERS")
    if folder is None:
        pytest.skip("POLAR_RAY_TRAINERS names no folder of trainers' environments")
    place = Path(folder) / client.partition("-")[0]
    python = place / "venv" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if (place / "src").is_dir():
        environment["PYTHONPATH"] = str(place / "src")
    done = subprocess.run(
        [str(python), str(real_clients.__file__), client, address],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stderr[-200:], file=sys.stderr)
    assert [json.loads(done.stdout.splitlines()[-1])["reward"]] == expected(scorer, ONE)
