"""TRL: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from adapters.recorded import ANSWERS, ASKED, WANTED
from fake_pool import FakePool

from polar_ray.adapters import trl
from polar_ray.errors import ConfigError, PoolError


def trl_call(bad: int | None = None) -> dict[str, Any]:
    """Keywords as GRPOTrainer gives them for conversations."""
    said = [[{"role": "assistant", "content": text}] for text in ANSWERS]
    return {
        "prompts": [ASKED] * 4,
        "completions": said,
        "completion_ids": [[1, 2]] * 4,
        "reference": [None if at == bad else "4" for at in range(4)],
        "n": [0, 1, 2, 3],
        "trainer_state": object(),
        "log_extra": print,
        "log_metric": print,
    }


def test_trl_leaves_a_row_out(pool: FakePool) -> None:
    assert trl.polar_reward(**trl_call()) == WANTED
    assert asyncio.run(trl.polar_reward_async(**trl_call())) == WANTED
    left = [WANTED[0], None, *WANTED[2:]]
    assert trl.polar_reward(**trl_call(bad=1)) == left
    assert asyncio.run(trl.polar_reward_async(**trl_call(bad=1))) == left


def test_trl_in_plain_text_and_with_its_own_settings(pool: FakePool) -> None:
    call = {**trl_call(), "prompts": ["2+2="] * 4, "completions": ANSWERS}
    call["gold"] = call.pop("reference")
    reward = trl.make_reward(reference_column="gold", priority="eval")
    assert reward(**call) == WANTED
    assert pool.queries[0]["priority"] == "eval"
    assert reward.__name__ == "polar_reward", "TRL logs rewards by their name"
    assert asyncio.iscoroutinefunction(trl.polar_reward_async), "or TRL would not await it"


def test_trl_stops_where_no_column_is_the_reference(pool: FakePool) -> None:
    call = trl_call()
    del call["reference"]
    with pytest.raises(ConfigError, match="no column reference or ground_truth"):
        trl.polar_reward(**call)


def test_trl_stops_when_the_pool_is_gone(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards of None for all would train on in silence."""
    monkeypatch.setenv("POLAR_RAY_TIMEOUT_S", "0.5")
    pool.dies_at = 1
    with pytest.raises(PoolError):
        trl.polar_reward(**trl_call())
