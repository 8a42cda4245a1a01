"""polar_ray: score RL rollouts with POLAR reward models, in one process or on a Ray cluster.

Importing this loads neither torch nor ray; each name loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polar_ray.config import PoolConfig, ScorerConfig
from polar_ray.errors import (
    ConfigError,
    DeadlineExceeded,
    EngineError,
    Overloaded,
    PolarRayError,
    PoolError,
    RecordError,
    ReplicaLost,
    ScoreError,
    TooLarge,
)
from polar_ray.extras import require
from polar_ray.records import Record

if TYPE_CHECKING:
    from polar_ray.client import Client, connect
    from polar_ray.client.reward_model_client import RewardModelClient
    from polar_ray.pool.app import app
    from polar_ray.scorer import Scorer

__version__ = "0.1.0"

__all__ = [
    # scoring
    "Client",
    "Record",
    "RewardModelClient",
    "Scorer",
    "app",
    "connect",
    # settings
    "PoolConfig",
    "ScorerConfig",
    # errors
    "ConfigError",
    "DeadlineExceeded",
    "EngineError",
    "Overloaded",
    "PolarRayError",
    "PoolError",
    "RecordError",
    "ReplicaLost",
    "ScoreError",
    "TooLarge",
]

_LAZY = {
    "Client": ("polar_ray.client", None),
    "RewardModelClient": ("polar_ray.client.reward_model_client", None),
    "Scorer": ("polar_ray.scorer", "engine"),
    "app": ("polar_ray.pool.app", "serve"),
    "connect": ("polar_ray.client", None),
}
"""The module of each name that loads more than this one does, and the extra that it needs."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'polar_ray' has no attribute {name!r}")
    module, extra = _LAZY[name]
    if extra is not None:
        require(extra, f"polar_ray.{name}")
    return getattr(import_module(module), name)
