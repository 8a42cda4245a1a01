"""verl: a reward manager, a reward function for one row, and POLAR's own function for a batch.

`pkg://polar_ray.adapters.verl` is the path of all three. `PolarRewardManager` sees the prompt;
`compute_score` gets it from `extra_info`, as POLAR's recipe puts it there. verl cannot leave a row
out, and makes NaN of a whole group from one: a row without a score raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from polar_ray.adapters.bases import derived, no_such
from polar_ray.adapters.pool import all_scores, all_scores_now
from polar_ray.adapters.rows import aligned, column, record
from polar_ray.adapters.settings import read_settings

ROUTER_OPTIONS = ("reward_router_address", "reward_model_tokenizer")
"""What verl passes on if it runs a reward model itself."""


async def compute_score(
    data_source: Any,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **reward_kwargs: Any,
) -> dict[str, float]:
    """`reward.custom_reward_function.name=compute_score`; its `reward_kwargs` are settings.

    The keys of the result are always the same: verl takes those of the first row for all.
    """
    given = {key: value for key, value in reward_kwargs.items() if key not in ROUTER_OPTIONS}
    settings = read_settings(given)
    prompt = column(extra_info or {}, settings.prompt_column, ("prompt",), "prompt")
    (score,) = await all_scores([record(prompt, ground_truth, solution_str, settings)], settings)
    return {"score": score}


def compute_score_batch(
    data_sources: Sequence[Any],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any]],
    prompt_key: str = "prompt",
    **reward_kwargs: Any,
) -> list[float]:
    """For verl's `batch` reward manager, with the signature of POLAR's own function.

    All rows are scored by the pool; POLAR's own judges a batch by rules once one row of it is a
    mathematical test question.
    """
    settings = read_settings({"prompt_column": prompt_key, **reward_kwargs})
    columns = aligned(
        ground_truths=ground_truths, solution_strs=solution_strs, extra_infos=extra_infos
    )
    rows = [
        record(column(extra, settings.prompt_column, (), "prompt"), truth, text, settings)
        for truth, text, extra in columns
    ]
    return all_scores_now(rows, settings)


class RowByRow:
    """Scores the rows that verl's agent loops finish, each when it is done."""

    config: Any
    tokenizer: Any

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any = None,
        reward_router_address: Any = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        super().__init__(config, tokenizer, compute_score)  # type: ignore[call-arg]
        # Of its own, as verl's settings take no keys that they do not know: +reward.polar.timeout_s
        self._settings = read_settings(dict(config.reward.get("polar", None) or {}))

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The reward of a batch of one row; of several sequences of it, the last one counts."""
        item = data[-1:][0]
        fields = item.non_tensor_batch
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(None, self._response, item.batch)
        truth = fields["reward_model"].get("ground_truth")
        row = record(fields["raw_prompt"], truth, text, self._settings)
        (score,) = await all_scores([row], self._settings)
        return {"reward_score": score, "reward_extra_info": {"polar": score}}

    def _response(self, tensors: Any) -> str:
        ids = tensors["responses"]
        length = int(tensors["attention_mask"][-ids.shape[-1] :].sum())
        return str(self.tokenizer.decode(ids[:length], skip_special_tokens=True))


def __getattr__(name: str) -> Any:
    if name != "PolarRewardManager":
        raise no_such(__name__, name)
    return derived(
        RowByRow, name, "verl.experimental.reward_loop.reward_manager.base.RewardManagerBase"
    )
