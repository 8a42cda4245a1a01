"""NeMo RL: `register()` makes POLAR the environment "polar".

A row's `extra_env_info` has the reference. Whole batches are one call. NeMo RL cannot leave a row
out: one without a score raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polar_ray.adapters.bases import derived, keep, no_such
from polar_ray.adapters.pool import Row, all_scores_now
from polar_ray.adapters.rows import column, record
from polar_ray.adapters.settings import AdapterConfig, read_settings

REFERENCE = ("reference", "ground_truth")


class OneTurnBatch:
    """Scores the last message of each conversation, and ends it. `env_config` are settings."""

    def __init__(self, env_config: dict[str, Any] | None = None) -> None:
        given = dict(env_config or {})
        self._settings = read_settings(
            {k: given[k] for k in AdapterConfig.model_fields if k in given}
        )

    def step(self, message_log_batch: Sequence[Any], metadata: Sequence[dict[str, Any]]) -> Any:
        """Rewards of a batch, in order."""
        import torch
        from nemo_rl.environments.interfaces import EnvironmentReturn

        rows = [
            _row(log, info, self._settings)
            for log, info in zip(message_log_batch, metadata, strict=True)
        ]
        rewards = all_scores_now(rows, self._settings)
        return EnvironmentReturn(
            observations=[{"role": "environment", "content": ""} for _ in rewards],
            metadata=list(metadata),
            next_stop_strings=[None] * len(rewards),
            rewards=torch.tensor(rewards, dtype=torch.float32),
            terminateds=torch.ones(len(rewards)),
            answers=None,
        )

    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, float]]:
        """Nothing to add."""
        return batch, {}

    def shutdown(self) -> None:
        """Nothing to end."""


def register(name: str = "polar") -> None:
    """Makes `env_name: polar` known, and that its actor runs in the trainer's own environment."""
    from nemo_rl.distributed import ray_actor_environment_registry as registry
    from nemo_rl.distributed.virtual_cluster import PY_EXECUTABLES
    from nemo_rl.environments.utils import register_env

    path = f"{__name__}.PolarEnvironment"
    registry.ACTOR_ENVIRONMENT_REGISTRY[path] = PY_EXECUTABLES.SYSTEM
    register_env(name, path)


def _row(log: Sequence[dict[str, Any]], info: dict[str, Any], settings: AdapterConfig) -> Row:
    asked = [{"role": m["role"], "content": m["content"]} for m in log[:-1]]
    prompt = column({**info, "": asked}, settings.prompt_column, ("prompt", ""), "prompt")
    reference = column(info, settings.reference_column, REFERENCE, "reference")
    return record(prompt, reference, log[-1]["content"], settings, ended=True)


def __getattr__(name: str) -> Any:
    if name != "PolarEnvironment":
        raise no_such(__name__, name)
    import ray

    base = "nemo_rl.environments.interfaces.EnvironmentInterface"
    return keep(ray.remote(derived(OneTurnBatch, name, base)), name, __name__)
