"""NeMo Gym: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

import asyncio

import pytest
from adapters.recorded import ASKED, WANTED
from fake_pool import FakePool

from polar_ray.adapters import nemo_gym
from polar_ray.adapters.pool import Unscored
from polar_ray.errors import RecordError


def test_nemo_gym_scores_a_response(pool: FakePool) -> None:
    said = {"type": "output_text", "text": "four", "annotations": []}
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [said]},
    ]
    assert asyncio.run(nemo_gym.reward_of(ASKED, "4", output)) == WANTED[0]
    with pytest.raises(Unscored, match="null_field"):
        asyncio.run(nemo_gym.reward_of(ASKED, None, output))
    with pytest.raises(RecordError, match=r"a list of items, not \[None\]"):
        nemo_gym.answer([None])
