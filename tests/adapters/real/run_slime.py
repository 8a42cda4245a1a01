"""slime: async_rm, batched_async_rm, generate_and_rm_group, _post_process_rewards.

`PYTHONPATH=.:SLIME_SOURCE python tests/adapters/real/run_slime.py`
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from contextlib import contextmanager
from typing import Any

from case import ANSWERS, LIVE, PROMPT, REFERENCE, close, outcome, report, stops, use, wanted
from stand_ins import stand_in

stand_in("sglang", "sglang_router", "megatron")

from slime.ray.rollout import RolloutManager
from slime.rollout import sglang_rollout
from slime.rollout.rm_hub import async_rm, batched_async_rm
from slime.utils.types import Sample

END = "<|im_end|>"


class State:
    """What of slime's GenerateState is used here; its own reads sglang's options."""

    aborted = False

    def __init__(self, args: Any) -> None:
        self.semaphore = asyncio.Semaphore(64)

    @contextmanager
    def dp_rank_context(self) -> Any:
        yield 0


sglang_rollout.GenerateState = State


async def generate(args: Any, sample: Any, sampling_params: Any) -> Any:
    """slime leaves the token that ends a response in it."""
    sample.response = ANSWERS[sample.index] + END
    sample.response_length, sample.tokens = 1, [1, 2]
    sample.status = Sample.Status.COMPLETED
    return sample


def arguments(**given: Any) -> Namespace:
    base: dict[str, Any] = {
        "custom_rm_path": "polar_ray.adapters.slime.polar",
        "custom_generate_function_path": "run_slime.generate",
        "rm_type": None,
        "rm_url": None,
        "group_rm": False,
        "partial_rollout": False,
        "mask_offpolicy_in_partial_rollout": False,
        "reward_key": None,
        "eval_reward_key": None,
        "advantage_estimator": "grpo",
        "rewards_normalization": True,
        "grpo_std_normalization": True,
        "n_samples_per_prompt": 4,
        "rollout_batch_size": 1,
    }
    return Namespace(**{**base, **given})


def samples(bad: int | None = None) -> list[Any]:
    return [
        Sample(
            prompt=[{"role": "user", "content": PROMPT}],
            label=None if at == bad else REFERENCE,
            index=at,
            group_index=0,
        )
        for at in range(4)
    ]


def roll_out(bad: int | None = None, **given: Any) -> list[Any]:
    """A group, each time in a loop that closes: rewards."""

    async def main() -> list[Any]:
        return await sglang_rollout.generate_and_rm_group(arguments(**given), samples(bad), {})

    return [sample.reward for sample in asyncio.run(main())]


def advantages(rewards: list[float]) -> list[float]:
    kind = getattr(RolloutManager, "__ray_metadata__", None)
    kind = kind.modified_class if kind is not None else RolloutManager
    manager = object.__new__(kind)
    manager.args, manager.custom_reward_post_process_func = arguments(), None
    rows = samples()
    for row, reward in zip(rows, rewards, strict=True):
        row.reward = reward
    return list(manager._post_process_rewards(rows)[1])


def main() -> None:
    stops(roll_out, lambda: roll_out(bad=1))
    use(LIVE)
    report("trap", name="--group-rm", right=close(roll_out(group_rm=True), wanted()))
    report("unscored", **outcome(lambda: roll_out(bad=1, group_rm=True)))
    sample = samples()[0]
    sample.response = ANSWERS[0] + END
    one = asyncio.run(async_rm(arguments(), sample))
    report("trap", name="the end token is not scored", right=close([one], wanted()[:1]))
    many = asyncio.run(batched_async_rm(arguments(), [sample, sample]))
    report("trap", name="a list", right=close(many, wanted()[:1] * 2))
    report("advantages", of=advantages(roll_out()))


if __name__ == "__main__":
    main()
