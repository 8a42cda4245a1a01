"""Adapters of a trainer that runs in the pool's own Ray cluster: by a handle, without HTTP."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from polar_ray.adapters import slime, trl, verl
from polar_ray.adapters.pool import Unscored
from polar_ray.client import connect
from polar_ray.config import PoolConfig
from polar_ray.pool.local import pool

pytestmark = pytest.mark.ray

ANSWERS = ["four", "4", "5", "no idea"]
ROWS = [{"prompt": "2+2=", "reference": "4", "output": text} for text in ANSWERS]


@pytest.fixture(scope="module")
def wanted(cluster: None, tiny_dir: Path) -> Iterator[Any]:
    """What a pool named "trainer" says of the answers."""
    config = PoolConfig(model=str(tiny_dir), num_cpus=0.1)
    with pool(config, name="trainer", route_prefix="/trainer"):
        yield pytest.approx(connect(app_name="trainer").score(ROWS), abs=1e-5)


@pytest.fixture(autouse=True)
def _there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLAR_RAY_ADDRESS", raising=False)
    monkeypatch.setenv("POLAR_RAY_APP_NAME", "trainer")


def sample(text: str, label: str | None = "4") -> Any:
    return SimpleNamespace(prompt="2+2=", response=text, label=label)


def test_loops_that_close_and_threads(wanted: Any) -> None:
    async def one_by_one() -> list[Any]:
        calls = (slime.polar(Namespace(), sample(text)) for text in ANSWERS)
        return await asyncio.gather(*calls)

    for _ in range(3):
        assert asyncio.run(one_by_one()) == wanted
    call = {"prompts": ["2+2="] * 4, "completions": ANSWERS, "reference": ["4"] * 4}
    assert trl.polar_reward(**call) == wanted

    def scored(text: str) -> float:
        return verl.compute_score_batch(["polar"], [text], ["4"], [{"prompt": "2+2="}])[0]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(scored, ANSWERS)) == wanted


def test_a_row_without_a_score_stops_here_too(wanted: Any) -> None:
    with pytest.raises(Unscored, match="row 1: null_field"):
        asyncio.run(slime.polar(Namespace(), [sample("four"), sample("4", None)]))
