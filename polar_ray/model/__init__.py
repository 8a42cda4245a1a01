"""The network on a single device: torch only, which is loaded once a network is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polar_ray.model.config import ModelConfig, load_config

if TYPE_CHECKING:
    from polar_ray.model.internlm2 import RewardModel
    from polar_ray.model.weights import digest, load_model, save_model, weights_digest

__all__ = [
    "ModelConfig",
    "RewardModel",
    "digest",
    "load_config",
    "load_model",
    "save_model",
    "weights_digest",
]

_LAZY = {
    "RewardModel": "internlm2",
    "digest": "weights",
    "load_model": "weights",
    "save_model": "weights",
    "weights_digest": "weights",
}


def __getattr__(name: str) -> Any:
    # Engines without a network of their own read a checkpoint's config only.
    if name not in _LAZY:
        raise AttributeError(f"module 'polar_ray.model' has no attribute {name!r}")
    return getattr(import_module(f"polar_ray.model.{_LAZY[name]}"), name)
