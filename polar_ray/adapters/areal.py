"""AReaL: `reward_fn="polar_ray.adapters.areal.polar_reward"` of RLVRWorkflow.

AReaL calls it in processes of its own, one row at a time, and takes 0 for a reward that runs into a
timeout: its own of 15 s, or any TimeoutError that is raised four times. So a call here ends in 10 s
where nothing else is set, and with no such error. AReaL then rejects the row's group, which is
rolled out again.
"""

from __future__ import annotations

from typing import Any

from polar_ray.adapters.pool import all_scores_now
from polar_ray.adapters.rows import column, record
from polar_ray.adapters.settings import own_settings, read_settings
from polar_ray.errors import DeadlineExceeded, PoolError

TIMEOUT_S = 10.0
REFERENCE = ("reference", "answer", "ground_truth", "solution")


def polar_reward(
    prompt: str, completions: str, prompt_ids: Any, completion_ids: Any, **columns: Any
) -> float:
    """The reward of one row. The prompt is that of the `messages` column, where there is one: the
    text that AReaL passes is wrapped into the policy's chat template."""
    settings = read_settings(own_settings(columns), timeout_s=TIMEOUT_S)
    asked = column({"": prompt, **columns}, settings.prompt_column, ("messages", ""), "prompt")
    reference = column(columns, settings.reference_column, REFERENCE, "reference")
    try:
        row = record(asked, reference, completions, settings, ended=True)
        (score,) = all_scores_now([row], settings)
    except DeadlineExceeded as error:  # a TimeoutError, which would become 0
        raise PoolError(str(error)) from None
    return score
