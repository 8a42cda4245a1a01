"""SkyRL: the environment `polar_ray.adapters.skyrl:PolarEnv`, one turn whose reward is POLAR's.

`reward_spec.ground_truth` of a data set's row is the reference. SkyRL steps in up to 32 threads at
once, whose calls are joined. It cannot leave a row out: one without a score raises.
"""

from __future__ import annotations

from typing import Any

from polar_ray.adapters.bases import derived, no_such
from polar_ray.adapters.pool import all_scores_now
from polar_ray.adapters.rows import column, record
from polar_ray.adapters.settings import read_settings


class OneTurn:
    """A question, one answer, and its score."""

    def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._extras = extras or {}
        self._prompt: Any = None

    def init(self, prompt: Any) -> tuple[Any, dict[str, Any]]:
        """The conversation as it is; it is what the answer is scored for."""
        self._prompt = prompt
        return prompt, {}

    def step(self, action: str) -> dict[str, Any]:
        """Scores the answer and ends."""
        settings = read_settings()
        spec = self._extras.get("reward_spec") or {}
        usual = ("ground_truth",)
        reference = column({**self._extras, **spec}, settings.reference_column, usual, "reference")
        (score,) = all_scores_now([record(self._prompt, reference, action, settings)], settings)
        return {"observations": [], "reward": score, "done": True, "metadata": {"polar": score}}


def __getattr__(name: str) -> Any:
    if name != "PolarEnv":
        raise no_such(__name__, name)
    return derived(OneTurn, name, "skyrl_gym.envs.base_text_env.BaseTextEnv")
