"""How a device's memory is divided: a pure estimate from the model's shape and the free memory.

An upper bound on purpose: `tests/cuda/test_memory.py` holds it against what lives at once. Where a
device has less than it said all the same, the engine runs out of memory, and the scorer goes on
with packs of half the size.
"""

from __future__ import annotations

from typing import NamedTuple

from polar_ray.model import ModelConfig
from polar_ray.model.internlm2 import ROWS
from polar_ray.model.varlen import GATHERED_KEYS

MAX_TOKENS = {"cuda": 32768, "cpu": 16384}
"""Larger packs make nothing faster, by measurements on a CPU; on CUDA, by what was modelled."""

MIN_TOKENS = 512
"""Of a pack where there seems to be no room: memory may be freed, and halving finds what is."""

SHARE = 0.7
"""Of the free memory that activations may take."""

USED = 0.85
"""Of the free memory that activations and the prefix cache may take together: the rest is for
blocks that do not fit what is asked for, and for what libraries take."""

LEAST_CACHE = 0.1
"""Of the free memory: what the prefix cache gets, whatever else would need."""


class Budget(NamedTuple):
    """What fits into a device's free memory."""

    max_tokens: int
    """Of a pack."""

    cache_bytes: int
    """Of the prefix cache, for as many as there is room for."""


class _Bytes(NamedTuple):
    """What a forward holds at once."""

    token: int
    """For each token of the pack."""

    row: int
    """For each token that is taken through a layer at once, at most `ROWS` of them."""

    gathered: int
    """Keys and values, while none are taken through a layer."""


def _bytes(
    config: ModelConfig, element_size: int, device: str, gathered_keys: int = GATHERED_KEYS
) -> _Bytes:
    width, wide = config.hidden_size, config.intermediate_size
    kv_width = 2 * config.num_key_value_heads * config.head_dim
    # The residual, queries, attention's output in parts and joined; keys and values, and those that
    # one token sees.
    token = 4 * width + 2 * kv_width
    # Angles, cosines and sines; a sum for each head's softmax.
    positions = 4 * 2 * config.head_dim * 4 + 4 * config.num_attention_heads
    # w1's and w3's outputs, their gate, and what rounding to 8 bits makes of it; the norm before.
    row = 5 * wide + 4 * width
    gathered = gathered_keys * kv_width if device == "cuda" else 0
    return _Bytes(token * element_size + positions, row * element_size, gathered * element_size)


def activation_bytes(
    config: ModelConfig,
    element_size: int,
    device: str,
    tokens: int,
    *,
    gathered_keys: int = GATHERED_KEYS,
) -> int:
    """Bytes that the forward of a pack holds at once, at the most."""
    parts = _bytes(config, element_size, device, gathered_keys)
    return parts.token * tokens + max(parts.row * min(tokens, ROWS[device]), parts.gathered)


def prefix_token_bytes(config: ModelConfig, element_size: int, world_size: int = 1) -> int:
    """Bytes of one token's keys and values in all layers, on each of `world_size` ranks."""
    heads = config.num_key_value_heads // world_size
    return 2 * config.num_hidden_layers * heads * config.head_dim * element_size


def divide(
    config: ModelConfig, element_size: int, free_bytes: int, spare_bytes: int, device: str
) -> Budget:
    """Packs as large as they are of use, and what they leave for a prefix cache.

    The cache leaves `spare_bytes` (for a model that is loaded beside this one) where it gets
    `LEAST_CACHE` all the same.
    """
    max_tokens = fit_tokens(config, element_size, free_bytes, device)
    taken = activation_bytes(config, element_size, device, max_tokens)
    left = max(0, int(free_bytes * USED) - taken)
    least = int(free_bytes * LEAST_CACHE)
    if left - spare_bytes >= least:
        left -= spare_bytes
    return Budget(max_tokens, cache_capacity(config, left))


def cache_capacity(config: ModelConfig, room_bytes: int) -> int:
    """What a prefix cache may hold within `room_bytes`: what a pack recalls of one layer is copied
    to where its attention reads."""
    return room_bytes * config.num_hidden_layers // (config.num_hidden_layers + 1)


def fit_tokens(config: ModelConfig, element_size: int, free_bytes: int, device: str) -> int:
    """Tokens of a pack that fit into `free_bytes`, between `MIN_TOKENS` and the device's most."""
    parts, rows = _bytes(config, element_size, device), ROWS[device]
    room = free_bytes * SHARE
    tokens = int(room / (parts.token + parts.row))
    if tokens > rows:
        tokens = int((room - parts.row * rows) / parts.token)
    tokens = min(tokens, int((room - parts.gathered) / parts.token))
    return max(MIN_TOKENS, min(tokens, MAX_TOKENS[device]))
