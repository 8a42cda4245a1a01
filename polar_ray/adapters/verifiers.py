"""verifiers and prime-rl: the reward `polar_ray.adapters.verifiers:polar` of a task.

In a TaskConfig: `rewards={"polar": {"fn": "polar_ray.adapters.verifiers:polar", "weight": 1.0}}`.
A row without a score raises, which ends its trace with an error: prime-rl leaves such traces out of
their group. (It would take 0 for a reward that is missing without one.)
"""

from __future__ import annotations

from typing import Any

from polar_ray.adapters.pool import all_scores
from polar_ray.adapters.rows import column, record
from polar_ray.adapters.settings import read_settings

REFERENCE = ("reference", "answer", "ground_truth")


async def polar(task: Any, trace: Any) -> float:
    """The score of a trace's last reply; the task's data have the prompt and the reference."""
    settings = read_settings()
    data = dict(task)
    prompt = column(data, settings.prompt_column, ("prompt",), "prompt")
    reference = column(data, settings.reference_column, REFERENCE, "reference")
    (score,) = await all_scores([record(prompt, reference, trace.last_reply, settings)], settings)
    return score
