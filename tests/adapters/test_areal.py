"""AReaL: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from adapters.recorded import ANSWERS, ASKED, WANTED, stand_in
from fake_pool import FakePool

from polar_ray.adapters import areal
from polar_ray.adapters.pool import Unscored
from polar_ray.errors import PoolError


def areal_call(**columns: Any) -> float:
    chat = "<|im_start|>user\n2+2=<|im_end|>\n"
    return areal.polar_reward(chat, "four<|im_end|>", [1], [2], messages=ASKED, **columns)


def test_areal_scores_its_messages_without_the_end_token(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert areal_call(answer="4") == WANTED[0]
    assert float(pool.queries[0]["timeout_s"]) <= 10, "before AReaL's own 15 s, which become 0"
    areal_call(answer="4", polar_timeout_s=99.0)
    assert 90 < float(pool.queries[1]["timeout_s"]) <= 99
    monkeypatch.setenv("POLAR_RAY_TIMEOUT_S", "60")
    areal_call(answer="4")
    assert float(pool.queries[2]["timeout_s"]) <= 10, (
        "what is set for all trainers is too long here"
    )
    with pytest.raises(Unscored, match="null_field"):
        areal_call(answer=None)
    assert pickle.loads(pickle.dumps(areal.polar_reward)) is areal.polar_reward


def test_areals_workflow_awaits_rewards_in_its_loop(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RLVRWorkflow:
        def __init__(self, reward_fn: Any, gconfig: Any, tokenizer: Any) -> None:
            self.async_reward_fn, self.given = None, (reward_fn, gconfig, tokenizer)

    stand_in(monkeypatch, "areal.workflow.rlvr", RLVRWorkflow=RLVRWorkflow)
    workflow = areal.PolarRLVRWorkflow("sampling", tokenizer="tokenizer")
    assert workflow.given == (areal.polar_reward, "sampling", "tokenizer")

    async def main() -> list[float]:
        rewards = (
            workflow.async_reward_fn("2+2=", f"{text}<|im_end|>", [1], [2], answer="4")
            for text in ANSWERS
        )
        return await asyncio.gather(*rewards)

    assert asyncio.run(main()) == WANTED
    assert len(pool.calls) == 1
    assert float(pool.queries[0]["timeout_s"]) > 500


def test_areal_gets_no_timeout_error(pool: FakePool) -> None:
    """It would take 0 for the fourth of them."""
    pool.silent = True
    with pytest.raises(PoolError, match=r"within 0\.(1|0\d) s") as caught:
        areal_call(answer="4", polar_timeout_s=0.1)
    assert not isinstance(caught.value, TimeoutError)
