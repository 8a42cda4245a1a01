"""How large a pack may be: a pure estimate from the model's shape and the free memory.

An upper bound on purpose. Where it is wrong all the same, the engine runs out of memory, and the
scorer goes on with packs of half the size.
"""

from __future__ import annotations

from polar_ray.model import ModelConfig
from polar_ray.model.internlm2 import ROWS

MAX_TOKENS = {"cuda": 32768, "cpu": 16384}
"""More than this fills no device better: perf measurements in benchmarks/README.md."""

MIN_TOKENS = 512
SHARE = 0.7
"""Of the free memory that activations may take."""

GATHERED = 4
"""How often a key stands in the gathered keys of a pack, for groups of long outputs."""


def activation_bytes(config: ModelConfig, element_size: int, device: str) -> tuple[int, int]:
    """Bytes that a forward holds at once: for each token of the pack, and whatever its size."""
    width = config.hidden_size
    kv_width = config.num_key_value_heads * config.head_dim
    residual = 3 * width
    attention = 2 * (width + 2 * kv_width) + 2 * width + 2 * kv_width * GATHERED
    rotation = 4 * 2 * config.head_dim * 4
    per_token = (residual + attention) * element_size + rotation
    fixed = 3 * ROWS[device] * config.intermediate_size * element_size
    return per_token, fixed


def fit_tokens(config: ModelConfig, element_size: int, free_bytes: int, device: str) -> int:
    """Tokens of a pack that fit into `free_bytes`, between `MIN_TOKENS` and the device's most."""
    per_token, fixed = activation_bytes(config, element_size, device)
    room = int((free_bytes * SHARE - fixed) / per_token)
    return max(MIN_TOKENS, min(room, MAX_TOKENS[device]))
