"""ms-swift: a plugin that calls `register()`, and `--reward_funcs polar` (or `polar_async`).

This file itself can not be the plugin: ms-swift puts a plugin's folder before all others from which
modules are imported, where this one's neighbours have the names of trainers.

ms-swift takes 0 for a row that is None or NaN, which among POLAR's negative scores is the best of
its group: a row without a score raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polar_ray.adapters.pool import Row, all_scores, all_scores_now
from polar_ray.adapters.rows import aligned, column, plain, record
from polar_ray.adapters.settings import AdapterConfig, read_settings
from polar_ray.errors import ConfigError

REFERENCE = ("reference", "solution", "ground_truth", "answer")


class PolarReward:
    """A reward of ms-swift (an ORM); `given` are settings such as `timeout_s=60`."""

    def __init__(self, args: Any = None, **given: Any) -> None:
        self.args = args
        self._given = {key: given[key] for key in AdapterConfig.model_fields if key in given}

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        settings = read_settings(self._given)
        return all_scores_now(_rows(completions, columns, settings), settings)


class PolarRewardAsync(PolarReward):
    """The same as an AsyncORM. ms-swift runs it in a loop that it makes for each batch."""

    async def __call__(  # type: ignore[override]
        self, completions: Sequence[Any], **columns: Any
    ) -> list[float]:
        settings = read_settings(self._given)
        return await all_scores(_rows(completions, columns, settings), settings)


def _rows(
    completions: Sequence[Any], columns: dict[str, Any], settings: AdapterConfig
) -> list[Row]:
    prompts = column(columns, settings.prompt_column, ("messages",), "prompt")
    references = column(columns, settings.reference_column, REFERENCE, "reference")
    return [
        record(_asked(prompt), reference, output, settings)
        for prompt, reference, output in aligned(
            messages=prompts, reference=references, completions=completions
        )
    ]


def _asked(prompt: Any) -> Any:
    """The conversation before the answer, which is the last message of ms-swift's."""
    messages = plain(prompt)
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, dict) and last.get("role") == "assistant":
        return messages[:-1]
    return messages  # what is none is refused in its row


def register() -> None:
    """Adds the rewards to ms-swift's table of them."""
    from swift.rewards import orms

    orms.update(polar=PolarReward, polar_async=PolarRewardAsync)


if __name__.startswith("_swift_external"):  # as ms-swift calls the module of a plugin
    raise ConfigError(
        "--external_plugins must not be this file, whose folder would hide trl and others; let it "
        "be one of yours: from polar_ray.adapters.ms_swift import register; register()"
    )
