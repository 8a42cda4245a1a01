"""OpenRLHF: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from fake_pool import FakePool, score_of

from polar_ray.adapters import openrlhf
from polar_ray.adapters.pool import Unscored
from polar_ray.errors import RecordError


def openrlhf_call(text: str = "four", label: Any = "4", start: str = "") -> dict[str, Any]:
    asked = "<|im_start|>user\n2+2=<|im_end|>\n"
    query = f"{start}{asked}{text}<|im_end|>"
    return openrlhf.reward_func([query], [asked], [label])


def test_openrlhf_gets_polars_score_and_one_between_0_and_1(pool: FakePool) -> None:
    wanted = score_of("<|im_start|>user\n2+2=<|im_end|>\n", "4", "four")
    for start in ("", "<|begin_of_text|>"):
        assert openrlhf_call(start=start) == {
            "rewards": [wanted],
            "scores": [openrlhf.squashed(wanted)],
            "extra_logs": {"polar": [wanted]},
        }
    assert 0 < openrlhf.squashed(-12) < openrlhf.squashed(1) < 1
    assert openrlhf.squashed(-1000) == 0.0


def test_a_reward_that_openrlhf_cannot_use_says_why_where_it_is_used(
    pool: FakePool, caplog: pytest.LogCaptureFixture
) -> None:
    found = openrlhf_call(label=None)
    (reward,) = found["rewards"]
    for use in (lambda: torch.tensor([reward]), lambda: torch.tensor([found["scores"][0]])):
        with pytest.raises(Unscored, match="row 0: null_field: reference is null"):
            use()
    with pytest.raises(Unscored):
        torch.tensor([pickle.loads(pickle.dumps(reward))])
    with pytest.raises(Unscored):
        float(reward)
    assert [entry.levelname for entry in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("queries", [[None], ["2+2=four", "2+2=five"]])
def test_openrlhf_drops_no_mistake(pool: FakePool, queries: list[Any]) -> None:
    found = openrlhf.reward_func(queries, ["2+2="], ["4"])
    assert len(found["rewards"]) == len(queries)
    for reward in found["rewards"]:
        with pytest.raises(ValueError, match=r"texts, not None|queries 2, prompts 1, labels 1"):
            float(reward)


def test_openrlhf_cuts_nothing_off_by_guess() -> None:
    with pytest.raises(RecordError, match="does not begin with its prompt"):
        openrlhf.response_of("2 + 2 = four", "2+2=")
    with pytest.raises(RecordError, match="does not begin with its prompt"):
        openrlhf.response_of("x" * 40 + "2+2=", "2+2=")
    assert openrlhf.response_of("<s>2+2=four, as 2+2=4", "2+2=") == "four, as 2+2=4"
    assert openrlhf.response_of("<|begin_of_text|>text Paris", "text") == " Paris"
    assert openrlhf.response_of("<s> <s>a", "<s>") == " <s>a"
    with pytest.raises(RecordError, match="an empty prompt"):
        openrlhf.response_of("<s>four", "")
