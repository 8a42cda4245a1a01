"""verl: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from adapters.recorded import ANSWERS, ASKED, WANTED, Bytes, ids_of, objects, stand_in
from fake_pool import UNSCORED, FakePool

from polar_ray.adapters import verl
from polar_ray.adapters.pool import Unscored
from polar_ray.errors import ConfigError


def verl_row(at: int, **given: Any) -> dict[str, Any]:
    return {
        "data_source": np.str_("polar"),
        "solution_str": ANSWERS[at],
        "ground_truth": np.str_("4"),
        "extra_info": {"prompt": objects(*ASKED), "index": np.int64(at), "num_turns": None},
        **given,
    }


def test_verl_scores_rows_one_by_one(pool: FakePool) -> None:
    async def main() -> list[dict[str, float]]:
        return await asyncio.gather(*(verl.compute_score(**verl_row(at)) for at in range(4)))

    assert asyncio.run(main()) == [{"score": score} for score in WANTED]
    assert len(pool.calls) == 1


def test_verl_passes_settings_on(pool: FakePool) -> None:
    given = {"reward_router_address": "a:1", "reward_model_tokenizer": object(), "priority": "eval"}
    assert asyncio.run(verl.compute_score(**verl_row(0, **given))) == {"score": WANTED[0]}
    assert pool.queries[0]["priority"] == "eval"
    with pytest.raises(ConfigError, match="prioritty='eval': no such setting"):
        asyncio.run(verl.compute_score(**verl_row(0, prioritty="eval")))


def test_verl_stops_at_a_row_without_a_score(pool: FakePool) -> None:
    for row in (verl_row(0, ground_truth=None), verl_row(0, solution_str=UNSCORED)):
        with pytest.raises(Unscored, match=r"row 0: (null_field|engine_error)"):
            asyncio.run(verl.compute_score(**row))
    with pytest.raises(ConfigError, match="no column prompt"):
        asyncio.run(verl.compute_score("polar", "four", "4", {"index": 1}))


def test_verl_in_a_batch_as_polars_recipe_calls_it(pool: FakePool) -> None:
    extras = [{"prompt": ASKED, "ability": "math", "split": "test"} for _ in range(4)]
    call = (["polar"] * 4, ANSWERS, objects(*["4"] * 4), objects(*extras))
    assert verl.compute_score_batch(*call) == WANTED
    others = [{"question": ASKED} for _ in range(4)]
    assert verl.compute_score_batch(*call[:3], others, prompt_key="question") == WANTED
    with pytest.raises(Unscored, match="row 2: null_field"):
        verl.compute_score_batch(*call[:2], objects("4", "4", None, "4"), objects(*extras))
    assert pool.calls[0][0]["prompt"] == "2+2="


def test_older_verl_loads_the_function_by_its_path(pool: FakePool) -> None:
    """As its `get_custom_reward_fn` does, which knows no pkg://."""
    spec = importlib.util.spec_from_file_location("custom_module", verl.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    extras = [{"prompt": ASKED}] * 4
    scores = module.compute_score_batch(["polar"] * 4, ANSWERS, objects(*["4"] * 4), extras)
    assert scores == WANTED


class RewardManagerBase:
    def __init__(self, config: Any, tokenizer: Any, compute_score: Any) -> None:
        self.config, self.tokenizer, self.compute_score = config, tokenizer, compute_score


class Sequences(list[Any]):
    """What of verl's DataProto a manager reads."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return Sequences(found) if isinstance(at, slice) else found


def verl_item(text: str, truth: Any = "4") -> Any:
    ids = ids_of([text + "  "])[0]
    mask = torch.tensor([1, 1, *[1] * len(text), 0, 0])
    fields = {
        "raw_prompt": objects(*ASKED),
        "data_source": np.str_("polar"),
        "reward_model": {"style": "polar", "ground_truth": truth},
    }
    return SimpleNamespace(
        batch={"responses": ids, "attention_mask": mask}, non_tensor_batch=fields
    )


def test_verls_reward_manager(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "verl.experimental.reward_loop.reward_manager.base"
    stand_in(monkeypatch, path, RewardManagerBase=RewardManagerBase)
    kind = importlib.import_module("polar_ray.adapters.verl").PolarRewardManager
    assert issubclass(kind, RewardManagerBase)
    config = SimpleNamespace(reward={"polar": {"priority": "eval"}})
    manager = kind(config=config, tokenizer=Bytes(), compute_score=None, reward_router_address=None)

    def run(*items: Any) -> Any:
        return asyncio.run(manager.run_single(Sequences(items)))

    wanted = {"reward_score": WANTED[0], "reward_extra_info": {"polar": WANTED[0]}}
    assert run(verl_item("four")) == wanted
    assert run(verl_item("5"), verl_item("four")) == wanted, "the last of several sequences"
    assert pool.queries[0]["priority"] == "eval"
    with pytest.raises(Unscored, match="null_field"):
        run(verl_item("four", None))
