"""TRL: `reward_funcs=polar_reward`, or `polar_reward_async`, of GRPOTrainer and RLOOTrainer.

TRL is the one trainer that can leave a row out: what has no score becomes None, which gets no
advantage and does not count in its group's baseline. The log says why.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from polar_ray.adapters.pool import Row, Scored, scores, scores_now
from polar_ray.adapters.rows import aligned, column, record
from polar_ray.adapters.settings import AdapterConfig, read_settings

REFERENCE = ("reference", "ground_truth", "solution", "answer")


def make_reward(**given: Any) -> Callable[..., Scored]:
    """A reward function with settings of its own, such as `timeout_s=60`."""

    def polar_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Scored:
        settings = read_settings(given)
        return scores_now(_rows(prompts, completions, columns, settings), settings)

    return polar_reward


def make_reward_async(**given: Any) -> Callable[..., Coroutine[Any, Any, Scored]]:
    """`make_reward` as a coroutine function, which TRL runs beside other rewards."""

    async def polar_reward_async(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> Scored:
        settings = read_settings(given)
        return await scores(_rows(prompts, completions, columns, settings), settings)

    return polar_reward_async


polar_reward = make_reward()
polar_reward_async = make_reward_async()


def _rows(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    columns: dict[str, Any],
    settings: AdapterConfig,
) -> list[Row]:
    references = column(columns, settings.reference_column, REFERENCE, "reference")
    return [
        record(prompt, reference, output, settings)
        for prompt, reference, output in aligned(
            prompts=prompts, reference=references, completions=completions
        )
    ]
