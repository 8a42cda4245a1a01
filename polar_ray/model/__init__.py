"""The network on a single device: torch only."""

from polar_ray.model.config import ModelConfig, load_config
from polar_ray.model.internlm2 import RewardModel, fuse
from polar_ray.model.weights import digest, load_model, save_model

__all__ = [
    "ModelConfig",
    "RewardModel",
    "digest",
    "fuse",
    "load_config",
    "load_model",
    "save_model",
]
