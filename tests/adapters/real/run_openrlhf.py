"""OpenRLHF: SingleTurnAgentExecutor with a reward file, _process_response_into_experience.

`PYTHONPATH=. python tests/adapters/real/run_openrlhf.py`
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import ray.cloudpickle as cloudpickle
import torch
import transformers  # before the stand-ins, which it would take for the libraries
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
from stand_ins import stand_in

stand_in("vllm", "flash_attn", "deepspeed")

from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.utils.agent import SingleTurnAgentExecutor

import polar_ray.adapters.openrlhf as adapter

TOKENIZER = tokenizer()
assert transformers


class Engine:
    """Stands for vLLM's actor; answers as it is told, and ends with the token for it."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    async def generate(self, ids: Any, params: Any, multi_modal_data: Any = None) -> Any:
        out = [*TOKENIZER(self.answer)["input_ids"], TOKENIZER.eos_token_id]
        said = SimpleNamespace(token_ids=out, text=self.answer, finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[said])


def responses(bad: int | None = None) -> list[dict[str, Any]]:
    executor = SingleTurnAgentExecutor([adapter.__file__])
    params = SimpleNamespace(max_tokens=64, logprobs=None)

    async def main() -> list[dict[str, Any]]:
        return await asyncio.gather(
            *(
                executor.execute(
                    PROMPT, None if at == bad else REFERENCE, params, 256, TOKENIZER, Engine(text)
                )
                for at, text in enumerate(ANSWERS)
            )
        )

    return asyncio.run(main())


def experiences(bad: int | None = None) -> Any:
    """A micro-batch, as the trainer makes one of what its rollouts return."""
    generator = object.__new__(SamplesGenerator)
    found = [
        generator._process_response_into_experience(one, max_len=256) for one in responses(bad)
    ]
    return Experience.concat_experiences(found, 0)


def rewards(bad: int | None = None) -> list[float]:
    return [float(one) for one in experiences(bad).rewards.flatten()]


def main() -> None:
    stops(rewards, lambda: rewards(bad=1))
    use(LIVE)
    # Rollouts come back from an actor of Ray's.
    failed = cloudpickle.loads(cloudpickle.dumps(responses(bad=1)[1]))
    report("unscored", **outcome(lambda: torch.tensor([failed["reward"]])))
    scores = experiences().scores.flatten()
    inside = bool(((scores > 0) & (scores < 1)).all())
    expected = [adapter.squashed(score) for score in wanted()]
    report("trap", name="scores lie in the range of the filter", right=inside)
    report("trap", name="and are POLAR's, squashed", right=close(scores.tolist(), expected))
    report("unscored", **outcome(lambda: rewards(bad=0)))
    group = torch.tensor(rewards())
    report("advantages", of=(group - group.mean()).tolist())


if __name__ == "__main__":
    main()
