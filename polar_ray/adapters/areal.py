"""AReaL: the workflow `polar_ray.adapters.areal.PolarRLVRWorkflow`; a function for others.

AReaL calls reward functions in processes of its own, one row at a time, and takes 0 for a reward
that runs into a timeout: its own of 15 s, in which a row may only have waited for a process, or any
TimeoutError that is raised four times. The workflow awaits rewards in its own event loop instead,
where none of that happens. Whatever is raised here ends the row's group, which AReaL rolls out
again.
"""

from __future__ import annotations

from typing import Any

from polar_ray.adapters.bases import derived, no_such
from polar_ray.adapters.pool import Row, all_scores, all_scores_now
from polar_ray.adapters.rows import column, record
from polar_ray.adapters.settings import AdapterConfig, own_settings, read_settings
from polar_ray.errors import DeadlineExceeded, PoolError

TIMEOUT_S = 10.0
"""The longest of the function: below AReaL's own. `polar_timeout_s`, of who has changed that, may
be longer; what the environment sets for all trainers may not."""

REFERENCE = ("reference", "answer", "ground_truth", "solution")


def polar_reward(
    prompt: str, completions: str, prompt_ids: Any, completion_ids: Any, **columns: Any
) -> float:
    """The reward of one row."""
    given = own_settings(columns)
    settings = read_settings(given)
    if "timeout_s" not in given:
        settings = settings.model_copy(update={"timeout_s": min(settings.timeout_s, TIMEOUT_S)})
    try:
        (score,) = all_scores_now([_row(prompt, completions, columns, settings)], settings)
    except DeadlineExceeded as error:  # a TimeoutError, which would become 0
        raise PoolError(str(error)) from None
    return score


async def polar_reward_async(
    prompt: str, completions: str, prompt_ids: Any, completion_ids: Any, **columns: Any
) -> float:
    """The same in an event loop, for workflows that await it themselves."""
    settings = read_settings(own_settings(columns))
    (score,) = await all_scores([_row(prompt, completions, columns, settings)], settings)
    return score


class InItsLoop:
    """An RLVRWorkflow whose reward is POLAR's; its arguments are those behind `reward_fn`."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(polar_reward, *given, **named)  # type: ignore[call-arg]
        self.async_reward_fn = polar_reward_async


def _row(prompt: str, completions: str, columns: dict[str, Any], settings: AdapterConfig) -> Row:
    # The text that AReaL passes is wrapped into the policy's chat template; `messages` is not.
    asked = column({"": prompt, **columns}, settings.prompt_column, ("messages", ""), "prompt")
    reference = column(columns, settings.reference_column, REFERENCE, "reference")
    return record(asked, reference, completions, settings, ended=True)


def __getattr__(name: str) -> Any:
    if name != "PolarRLVRWorkflow":
        raise no_such(__name__, name)
    return derived(InItsLoop, name, "areal.workflow.rlvr.RLVRWorkflow")
