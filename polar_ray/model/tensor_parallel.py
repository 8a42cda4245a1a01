"""Tensor parallelism, applied to the model from outside: each rank holds a part of every layer.

Heads and feed-forward columns are divided among the ranks; the two projections back to the width
give partial sums, which an all-reduce adds up. Embeddings, norms and the head are on every rank, so
that every rank has the whole score. Knows torch.distributed, but not how ranks are started.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from polar_ray.errors import ConfigError
from polar_ray.model.config import ModelConfig
from polar_ray.model.internlm2 import RewardModel

DIVIDED = {
    # Rows of these are outputs: the heads (each with its own k and v), and the inner width.
    "attention.wqkv.weight": 0,
    "attention.wqkv.bias": 0,
    "feed_forward.w1.weight": 0,
    "feed_forward.w3.weight": 0,
    # Columns of these are inputs.
    "attention.wo.weight": 1,
    "feed_forward.w2.weight": 1,
}
SUMMED = ("attention.wo", "feed_forward.w2")


def check_divisible(config: ModelConfig, world_size: int) -> None:
    """Raises `ConfigError` where a layer cannot be divided evenly."""
    for name in ("num_key_value_heads", "intermediate_size"):
        if (value := getattr(config, name)) % world_size:
            raise ConfigError(
                f"engine.tensor_parallel_size={world_size} does not divide {name}={value}; "
                "use a divisor of both num_key_value_heads and intermediate_size"
            )


def part_of(name: str, tensor: Tensor, rank: int, world_size: int) -> Tensor:
    """What rank `rank` holds of the parameter `name`: a view, or the whole."""
    dim = next((dim for suffix, dim in DIVIDED.items() if name.endswith(suffix)), None)
    if dim is None:
        if rank and name.endswith("attention.wo.bias"):
            # Added once, however many partial sums there are.
            return torch.zeros_like(tensor)
        return tensor
    return tensor.chunk(world_size, dim)[rank]


def add_all_reduce(model: RewardModel, group: Any = None) -> None:
    """Adds an all-reduce over `group` to the outputs of the projections in `SUMMED`."""

    def reduce(module: nn.Module, inputs: Any, partial: Tensor) -> Tensor:
        distributed.all_reduce(partial, group=group)
        return partial

    for name, module in model.named_modules():
        if name.endswith(SUMMED):
            module.register_forward_hook(reduce)
