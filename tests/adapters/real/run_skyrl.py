"""SkyRL: skyrl_gym.register and SkyRLGymGenerator.generate, with a stand-in for the engines.

`PYTHONPATH=. python tests/adapters/real/run_skyrl.py`
"""

from __future__ import annotations

import asyncio
import typing
from typing import Any

import typing_extensions

typing.TypedDict = typing_extensions.TypedDict  # before Python 3.12 pydantic refuses typing's

import numpy as np
import skyrl_gym
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
from skyrl.backends.skyrl_train.utils.ppo_utils import compute_grpo_outcome_advantage
from skyrl.train.config import GeneratorConfig, SkyRLGymConfig
from skyrl.train.generators.skyrl_gym_generator import SkyRLGymGenerator

torch.set_num_threads(1)
TOKENIZER = tokenizer()
skyrl_gym.register(id="polar", entry_point="polar_ray.adapters.skyrl:PolarEnv")


class Engines:
    """Answers with the texts of the group, in turn."""

    model_name = "m"

    def __init__(self) -> None:
        self.asked = 0

    async def finish_session(self, session_id: Any) -> None:
        pass

    async def generate(self, given: Any, model: Any = None) -> dict[str, Any]:
        count = len(given["prompt_token_ids"])
        texts = [ANSWERS[(self.asked + at) % 4] for at in range(count)]
        self.asked += count
        ids = [[*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id] for text in texts]
        return {
            "responses": texts,
            "response_ids": ids,
            "stop_reasons": ["stop"] * count,
            "response_logprobs": None,
        }


def rewards(bad: int | None = None, batched: bool = True, count: int = 4) -> list[float]:
    extras = [
        {
            "reward_spec": {
                "method": "reward_model",
                "ground_truth": None if at == bad else REFERENCE,
            }
        }
        for at in range(count)
    ]

    async def main() -> Any:
        config = GeneratorConfig(batched=batched, max_input_length=512)
        generator = SkyRLGymGenerator(config, SkyRLGymConfig(), Engines(), TOKENIZER)
        return await generator.generate(
            {
                "prompts": [[{"role": "user", "content": PROMPT}]] * count,
                "env_classes": ["polar"] * count,
                "env_extras": extras,
                "sampling_params": None,
                "trajectory_ids": None,
                "batch_metadata": None,
            },
            disable_tqdm=True,
        )

    found = asyncio.run(main())["rewards"]
    return [float(sum(one)) if isinstance(one, list) else float(one) for one in found]


def main() -> None:
    stops(rewards, lambda: rewards(bad=1))
    use(LIVE)
    single = sorted(rewards(batched=False))
    report("trap", name="one by one", right=close(single, sorted(wanted())))
    many = sorted(rewards(batched=False, count=64))
    report("trap", name="64 in 32 threads", right=close(many, sorted(wanted() * 16)))
    report("unscored", **outcome(lambda: rewards(bad=1, batched=False)))
    last = torch.zeros(4, 3)
    last[:, -1] = torch.tensor(rewards())
    advantages = compute_grpo_outcome_advantage(last, torch.ones(4, 3), np.array(["g"] * 4))[0]
    report("advantages", of=advantages[:, 0].tolist())


if __name__ == "__main__":
    main()
