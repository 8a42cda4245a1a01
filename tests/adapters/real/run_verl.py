"""verl: load_reward_manager, RewardLoopManager under Ray, AgentLoopWorker, BatchRewardManager.

`PYTHONPATH=. python tests/adapters/real/run_verl.py`
"""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import numpy as np
import ray
import torch
from case import (
    ANSWERS,
    LIVE,
    PROMPT,
    REFERENCE,
    close,
    outcome,
    report,
    stops,
    tokenizer,
    use,
    wanted,
)
from hydra import compose, initialize_config_module
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopMetrics,
    AgentLoopOutput,
    AgentLoopWorker,
)
from verl.experimental.reward_loop.reward_loop import RewardLoopManager, migrate_legacy_reward_impl
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.trainer.ppo.reward import load_reward_manager
from verl.workers.reward_manager.batch import BatchRewardManager

from polar_ray.adapters.verl import compute_score_batch

torch.set_num_threads(1)
FOLDER = tempfile.mkdtemp()
TOKENIZER = tokenizer()
TOKENIZER.save_pretrained(FOLDER)
FUNCTION = {
    "reward.custom_reward_function.path": "'pkg://polar_ray.adapters.verl'",
    "reward.custom_reward_function.name": "compute_score",
}
MANAGER = {
    "reward.reward_manager.source": "importlib",
    "reward.reward_manager.name": "PolarRewardManager",
    "reward.reward_manager.module.path": "'pkg://polar_ray.adapters.verl'",
}


def config(**given: str) -> Any:
    with initialize_config_module("verl.trainer.config", version_base=None):
        overrides = [f"actor_rollout_ref.model.path={FOLDER}", "reward.num_workers=1"]
        overrides += [f"{key}={value}" for key, value in given.items()]
        return migrate_legacy_reward_impl(compose("ppo_trainer", overrides=overrides))


def objects(values: list[Any]) -> Any:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def batch(bad: int | None = None) -> Any:
    """The group as verl keeps it: prompts as arrays of dicts, text as numpy's."""
    ids = [[*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id] for text in ANSWERS]
    longest = max(map(len, ids))
    asked = TOKENIZER(PROMPT)["input_ids"]
    responses = torch.tensor([[*one, *[0] * (longest - len(one))] for one in ids])
    mask = torch.tensor([[1] * (len(asked) + len(o)) + [0] * (longest - len(o)) for o in ids])
    prompts = torch.tensor([asked] * 4)
    tensors = {
        "prompts": prompts,
        "responses": responses,
        "input_ids": torch.cat([prompts, responses], 1),
        "attention_mask": mask,
        "position_ids": mask.cumsum(1) - 1,
    }
    raw = [objects([{"role": "user", "content": np.str_(PROMPT)}]) for _ in range(4)]
    truths = [None if at == bad else np.str_(REFERENCE) for at in range(4)]
    return DataProto(
        batch=TensorDict(tensors, batch_size=4),
        non_tensor_batch={
            "data_source": objects([np.str_("polar")] * 4),
            "reward_model": objects([{"style": "polar", "ground_truth": t} for t in truths]),
            "extra_info": objects([{"index": np.int64(at), "prompt": PROMPT} for at in range(4)]),
            "raw_prompt": objects(raw),
            "uid": objects(["u"] * 4),
        },
    )


def one_by_one(over: dict[str, str], bad: int | None = None) -> list[float]:
    """A manager in this process, in a loop that closes."""

    async def main() -> list[float]:
        manager = load_reward_manager(config(**over), TOKENIZER)
        rows = batch(bad)
        found = await asyncio.gather(*(manager.run_single(rows[at : at + 1]) for at in range(4)))
        assert len({tuple(one["reward_extra_info"]) for one in found}) == 1
        return [one["reward_score"] for one in found]

    return asyncio.run(main())


def legacy(bad: int | None = None) -> list[float]:
    rewards = BatchRewardManager(TOKENIZER, 0, compute_score_batch)(batch(bad))
    return [float(one) for one in rewards.sum(-1)]


def under_ray(name: str, over: dict[str, str]) -> None:
    manager = RewardLoopManager(config(**over))
    found = manager.compute_rm_score(batch())
    rewards = found.batch["rm_scores"].sum(-1).tolist()
    report("trap", name=f"{name} under Ray", right=close(rewards, wanted()))
    report("unscored", **outcome(lambda: manager.compute_rm_score(batch(bad=1))))
    worker_class = getattr(AgentLoopWorker, "__ray_metadata__", None)
    worker_class = worker_class.modified_class if worker_class is not None else AgentLoopWorker
    worker = object.__new__(worker_class)
    worker.reward_loop_worker_handles = manager.reward_loop_worker_handles
    worker.processor = worker.mm_processor_kwargs = None
    worker.config = config(**over)

    def in_loop(bad: int | None = None) -> list[float]:
        rows = batch(bad)
        output = AgentLoopOutput(
            prompt_ids=TOKENIZER(PROMPT)["input_ids"],
            response_ids=TOKENIZER(ANSWERS[0])["input_ids"],
            response_mask=[1] * len(TOKENIZER(ANSWERS[0])["input_ids"]),
            metrics=AgentLoopMetrics(),
            num_turns=2,
        )
        fields = {key: values[0] for key, values in rows.non_tensor_batch.items()}
        asyncio.run(worker._compute_score([output], fields))
        return [output.reward_score]

    report("trap", name=f"{name} in an agent loop", right=close(in_loop(), wanted()[:1]))
    report("unscored", **outcome(lambda: in_loop(bad=0)))
    for actor in manager.reward_loop_workers:
        ray.kill(actor)


def main() -> None:
    stops(lambda: one_by_one(MANAGER), lambda: one_by_one(MANAGER, bad=1))
    use(LIVE)
    report("trap", name="compute_score", right=close(one_by_one(FUNCTION), wanted()))
    report("unscored", **outcome(lambda: one_by_one(FUNCTION, bad=1)))
    given = {**MANAGER, "+reward.polar.address": f"'{LIVE}'", "+reward.polar.timeout_s": "9"}
    use("http://127.0.0.1:9", 1.0)
    report("trap", name="settings of the config", right=close(one_by_one(given), wanted()))
    use(LIVE)
    report("trap", name="compute_score_batch", right=close(legacy(), wanted()))
    report("unscored", **outcome(lambda: legacy(bad=1)))
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        logging_level="ERROR",
    )
    under_ray("PolarRewardManager", MANAGER)
    under_ray("compute_score", FUNCTION)
    ray.shutdown()
    last = torch.zeros(4, 3)
    last[:, -1] = torch.tensor(one_by_one(MANAGER))
    advantages = compute_grpo_outcome_advantage(last, torch.ones(4, 3), np.array(["g"] * 4))[0]
    report("advantages", of=advantages[:, 0].tolist())


if __name__ == "__main__":
    main()
