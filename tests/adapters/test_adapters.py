"""Each adapter by its trainer's own call, as it was recorded inside the trainer's code.

The trainers are not installed here: classes that derive from theirs get a stand-in for it. Inside
the real code the same is tested by `tests/adapters/test_real.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import pickle
import subprocess
import sys
import types
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_pool import UNSCORED, FakePool, score_of

from polar_ray.adapters import (
    areal,
    ms_swift,
    nemo_gym,
    nemo_rl,
    openrlhf,
    roll,
    skyrl,
    slime,
    trl,
    verifiers,
    verl,
    xtuner,
)
from polar_ray.adapters.pool import Unscored
from polar_ray.errors import ConfigError, PoolError, RecordError

ADAPTERS = Path(trl.__file__).parent
ANSWERS = ["four", "4", "5", "no idea"]
WANTED = [score_of("2+2=", "4", text) for text in ANSWERS]
ASKED = [{"role": "user", "content": "2+2="}]


def objects(*values: Any) -> Any:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def stand_in(monkeypatch: pytest.MonkeyPatch, path: str, **names: Any) -> None:
    """A module of a trainer with these names in it."""
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, value in names.items():
        setattr(sys.modules[path], name, value)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that are made on demand are made anew in each test."""
    made = {
        areal: ["PolarRLVRWorkflow"],
        verl: ["PolarRewardManager"],
        skyrl: ["PolarEnv"],
        xtuner: ["PolarJudger", "PolarJudgerConfig"],
        nemo_rl: ["PolarEnvironment"],
        nemo_gym: ["PolarResourcesServer"],
        roll: ["PolarRewardWorker"],
    }
    for module, names in made.items():
        for name in names:
            # Noted as absent, so that the test's end takes away what the test put there.
            monkeypatch.setitem(module.__dict__, name, None)
            monkeypatch.delitem(module.__dict__, name)


# TRL


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


# verl


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


class Bytes:
    """A tokenizer whose ids are characters."""

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, ids.tolist()))

    def batch_decode(self, ids: Any, skip_special_tokens: bool) -> list[str]:
        return [self.decode(row[row > 0], skip_special_tokens) for row in ids]


class RewardManagerBase:
    def __init__(self, config: Any, tokenizer: Any, compute_score: Any) -> None:
        self.config, self.tokenizer, self.compute_score = config, tokenizer, compute_score


class Sequences(list[Any]):
    """What of verl's DataProto a manager reads."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return Sequences(found) if isinstance(at, slice) else found


def ids_of(texts: list[str]) -> Any:
    longest = max(map(len, texts))
    return torch.tensor([[*map(ord, text), *[0] * (longest - len(text))] for text in texts])


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


# OpenRLHF


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


def test_openrlhf_cuts_nothing_off_by_guess() -> None:
    with pytest.raises(RecordError, match="does not begin with its prompt"):
        openrlhf.response_of("2 + 2 = four", "2+2=")
    with pytest.raises(RecordError, match="does not begin with its prompt"):
        openrlhf.response_of("x" * 40 + "2+2=", "2+2=")
    assert openrlhf.response_of("<s>2+2=four, as 2+2=4", "2+2=") == "four, as 2+2=4"


# slime


def samples(label: Any = "4") -> list[Any]:
    return [
        SimpleNamespace(prompt=ASKED, response=f"{text}<|im_end|>", label=label, metadata={})
        for text in ANSWERS
    ]


def test_slime_one_by_one_and_in_groups_without_the_end_token(pool: FakePool) -> None:
    async def single() -> list[Any]:
        calls = (slime.polar(Namespace(polar_priority="eval"), one) for one in samples())
        return await asyncio.gather(*calls)

    assert asyncio.run(single()) == WANTED
    assert len(pool.calls) == 1
    assert pool.queries[0]["priority"] == "eval"
    assert asyncio.run(slime.polar(Namespace(rm_url=None), samples())) == WANTED
    assert {row["output"] for row in pool.rows()} == set(ANSWERS)
    assert asyncio.run(slime.polar(Namespace(), [])) == []


def test_slime_stops_at_a_row_without_a_score(pool: FakePool) -> None:
    for given in (samples(None), samples(None)[0]):
        with pytest.raises(Unscored, match="row 0: null_field"):
            asyncio.run(slime.polar(Namespace(), given))


# SkyRL


class BaseTextEnv:
    def __init__(self) -> None:
        self.turns = 0


def test_skyrls_environment(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "skyrl_gym.envs.base_text_env", BaseTextEnv=BaseTextEnv)
    kind = skyrl.PolarEnv
    assert skyrl.PolarEnv is kind, "made once"
    assert kind.__module__ == "polar_ray.adapters.skyrl"

    def step(truth: Any) -> Any:
        extras = {"reward_spec": {"method": "reward_model", "ground_truth": truth}, "max_turns": 1}
        env = kind(env_config={}, extras=extras)
        assert env.turns == 0
        assert env.init(ASKED) == (ASKED, {})
        return env.step("four")

    found = step("4")
    assert (found["reward"], found["done"], found["observations"]) == (WANTED[0], True, [])
    with pytest.raises(Unscored, match="null_field"):
        step(None)
    with pytest.raises(ConfigError, match="no column ground_truth"):
        kind(env_config={}, extras={}).step("four")


# AReaL


def areal_call(**columns: Any) -> float:
    chat = "<|im_start|>user\n2+2=<|im_end|>\n"
    return areal.polar_reward(chat, "four<|im_end|>", [1], [2], messages=ASKED, **columns)


def test_areal_scores_its_messages_without_the_end_token(pool: FakePool) -> None:
    assert areal_call(answer="4") == WANTED[0]
    assert float(pool.queries[0]["timeout_s"]) <= 10, "before AReaL's own 15 s, which become 0"
    areal_call(answer="4", polar_timeout_s=99.0)
    assert 90 < float(pool.queries[1]["timeout_s"]) <= 99
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
    with pytest.raises(PoolError, match=r"within 0\.1 s") as caught:
        areal_call(answer="4", polar_timeout_s=0.1)
    assert not isinstance(caught.value, TimeoutError)


# verifiers and prime-rl


def test_verifiers_asks_with_a_task_and_a_trace(pool: FakePool) -> None:
    from pydantic import BaseModel

    class Data(BaseModel):
        prompt: Any
        answer: Any = None

    trace = SimpleNamespace(last_reply="four")
    for prompt in ("2+2=", [SimpleNamespace(model_dump=lambda: ASKED[0])]):
        assert asyncio.run(verifiers.polar(Data(prompt=prompt, answer="4"), trace)) == WANTED[0]
    with pytest.raises(Unscored, match="null_field"):
        asyncio.run(verifiers.polar(Data(prompt="2+2="), trace))
    assert asyncio.iscoroutinefunction(verifiers.polar), "verifiers refuses a plain def"


# xtuner


class Judger:
    def __init__(self, judger_name: str | None = None) -> None:
        self.name = judger_name


def payload(text: str, label: Any = "4") -> dict[str, Any]:
    asked = {"message": ASKED, "status": "completed", "data_source": "polar", "task_name": None}
    return {"response": text + "<|im_end|>", "label": label, **asked}


def test_xtuners_judger(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydantic import BaseModel

    class JudgerConfig(BaseModel):
        judger_name: str

    path = "xtuner.v1.rl.judger.native"
    stand_in(monkeypatch, path, Judger=Judger, JudgerConfig=JudgerConfig)
    judger = xtuner.PolarJudgerConfig(polar={"priority": "eval"}).build_local()
    assert isinstance(judger, Judger)
    assert judger.name == "polar"

    def judge(given: Any) -> Any:
        return asyncio.run(judger.judge_payload(given))

    assert judge(payload("four")) == {"score": WANTED[0]}
    assert judge([payload(text) for text in ANSWERS]) == [{"score": one} for one in WANTED]
    assert pool.queries[0]["priority"] == "eval"
    with pytest.raises(Unscored, match="row 1: null_field"):
        judge([payload("four"), payload("4", None)])


# ms-swift


def swift_columns(bad: int | None = None) -> dict[str, Any]:
    return {
        "messages": [[*ASKED, {"role": "assistant", "content": text}] for text in ANSWERS],
        "reference": [None if at == bad else "4" for at in range(4)],
        "request_id": ["a", "b", "c", "d"],
        "trainer_state": object(),
    }


def test_ms_swift_gets_all_or_nothing(pool: FakePool) -> None:
    plain, awaited = ms_swift.PolarReward(args=object()), ms_swift.PolarRewardAsync()
    assert plain(ANSWERS, **swift_columns()) == WANTED
    for _ in range(2):
        assert asyncio.run(awaited(ANSWERS, **swift_columns())) == WANTED
    with pytest.raises(Unscored, match="row 1: null_field"):
        plain(ANSWERS, **swift_columns(bad=1))
    with pytest.raises(Unscored, match="row 1: null_field"):
        asyncio.run(awaited(ANSWERS, **swift_columns(bad=1)))


def test_ms_swift_knows_the_rewards_once_they_are_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orms: dict[str, Any] = {"accuracy": object}
    stand_in(monkeypatch, "swift.rewards", orms=orms)
    ms_swift.register()
    assert set(orms) == {"accuracy", "polar", "polar_async"}
    assert asyncio.iscoroutinefunction(orms["polar_async"].__call__)


def test_ms_swift_must_not_load_the_adapter_as_a_plugin() -> None:
    """It would put the folder of all adapters, one of which is called trl, before trl's own."""
    path = str(ADAPTERS / "ms_swift.py")
    spec = importlib.util.spec_from_file_location("_swift_external_1f", path)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ConfigError, match="must not be this file"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# NeMo RL


def test_nemo_rls_environment(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace
    stand_in(monkeypatch, "nemo_rl.environments.interfaces", EnvironmentReturn=made)
    logs = [
        [{**ASKED[0], "token_ids": torch.tensor([1])}, {"role": "assistant", "content": text}]
        for text in ANSWERS
    ]
    env = nemo_rl.OneTurnBatch({"priority": "eval", "num_workers": 2})
    found = env.step(logs, [{"reference": "4"}] * 4)
    assert torch.equal(found.rewards, torch.tensor(WANTED))
    assert found.terminateds.tolist() == [1.0] * 4
    assert len(found.observations) == len(found.next_stop_strings) == 4
    assert (len(pool.calls), pool.queries[0]["priority"]) == (1, "eval")
    with pytest.raises(Unscored, match="row 3: null_field"):
        env.step(logs, [*[{"reference": "4"}] * 3, {"reference": None}])
    assert env.global_post_process_and_metrics("batch") == ("batch", {})


# NeMo Gym


def test_nemo_gym_scores_a_response(pool: FakePool) -> None:
    said = {"type": "output_text", "text": "four", "annotations": []}
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [said]},
    ]
    assert asyncio.run(nemo_gym.reward_of(ASKED, "4", output)) == WANTED[0]
    with pytest.raises(Unscored, match="null_field"):
        asyncio.run(nemo_gym.reward_of(ASKED, None, output))


# ROLL


def roll_batch(**columns: Any) -> Any:
    given = {"ground_truth": objects(*["4"] * 4), "domain": objects(*["polar"] * 4), **columns}
    tensors = {"responses": ids_of(ANSWERS), "prompts": ids_of(["2+2="] * 4)}
    return SimpleNamespace(batch=tensors, non_tensor_batch=given)


def test_roll_scores_a_shard(pool: FakePool) -> None:
    assert roll.rewards_of(roll_batch(), Bytes()) == WANTED
    assert roll.rewards_of(roll_batch(messages=objects(*[ASKED] * 4)), Bytes()) == WANTED
    assert len(pool.calls) == 2
    with pytest.raises(Unscored, match="row 0: null_field"):
        roll.rewards_of(roll_batch(ground_truth=objects(None, "4", "4", "4")), Bytes())


# All of them


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
        lambda: trl.polar_reward(**trl_call()),
        lambda: asyncio.run(verl.compute_score(**verl_row(0))),
        lambda: asyncio.run(slime.polar(Namespace(), samples())),
        lambda: areal_call(answer="4"),
        lambda: ms_swift.PolarReward()(ANSWERS, **swift_columns()),
        lambda: roll.rewards_of(roll_batch(), Bytes()),
    ],
    ids=["trl", "verl", "slime", "areal", "ms_swift", "roll"],
)
def test_a_deadline_ends_every_call(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]
) -> None:
    pool.silent = True
    monkeypatch.setenv("POLAR_RAY_TIMEOUT_S", "0.05")
    with pytest.raises(PoolError, match=r"within 0\.05 s"):
        call()
