"""Whether a device attends along paths by the kernel that reads keys in place.

Shape suffixes: T packed tokens, N query heads, K key/value heads, H head dim.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from polar_ray.model.attention import Recall, SpanTuple
from polar_ray.model.choice import (
    Call,
    Clock,
    Inputs,
    Trial,
    choose,
    cuda_seconds,
    describe,
    try_all,
)
from polar_ray.model.config import ModelConfig
from polar_ray.model.flash import trial
from polar_ray.model.paths import Prepare, TiledKernel, by_tiles
from polar_ray.model.transfer import send

if TYPE_CHECKING:
    from polar_ray.model.kernels.path_attention import Tiling

logger = logging.getLogger(__name__)

TIMED_SPANS: tuple[SpanTuple, ...] = (
    (0, 771, -1),
    *((771 + n * 257, 1028 + n * 257, 0) for n in range(16)),
    (4883, 6931, -1),
)
"""A group of candidates, and a text alone: what packs are made of."""

Heads = tuple[int, int, int]
"""Query heads and key/value heads of this device, and their size."""


def triton_tilings(group: int) -> tuple[list[Tiling], list[Tiling]]:
    """For all tokens, those that are tried; for the ends alone, whose rows are few, the one."""
    from polar_ray.model.kernels.path_attention import Tiling

    tried = [Tiling(128, 64, 8, 3), Tiling(128, 64, 4, 3), Tiling(64, 64, 4, 3)]
    return tried, [Tiling(16 if group <= 16 else 64, 64, 4, 2)]


def triton_kernels(group: int) -> dict[str, Prepare]:
    """The path kernel in several tilings, for `group` query heads to a key/value head;
    `ImportError` where there is no Triton."""
    from polar_ray.model.kernels.path_attention import path_attention

    def tiled(tiling: Tiling) -> TiledKernel:
        return TiledKernel(partial(path_attention, tiling=tiling), tiling.rows)

    tilings, [ends] = triton_tilings(group)
    return {
        "path_attention_{}x{}_{}w".format(*tiling): by_tiles(tiled(tiling), tiled(ends), group)
        for tiling in tilings
    }


@torch.inference_mode()
def choose_attention(
    config: ModelConfig,
    device: str,
    dtype: torch.dtype,
    world_size: int,
    rival: Prepare,
    *,
    kernels: Callable[[int], Mapping[str, Prepare]] = triton_kernels,
    clock: Clock = cuda_seconds,
) -> Prepare:
    """The kernel where that is right and faster, or its `rival`."""
    kv_heads = config.num_key_value_heads // world_size
    group = config.num_attention_heads // config.num_key_value_heads
    heads = kv_heads * group, kv_heads, config.head_dim
    try:
        offered = kernels(group)
    except ImportError as missing:
        logger.warning("attention does without the kernel that is made for it: %s", missing)
        return rival

    def try_one(prepare: Prepare) -> Trial:
        off = trial(prepare, device, dtype, *heads)
        return Trial(off, clock(_timed(prepare, device, dtype, heads)))

    reference_s = clock(_timed(rival, device, dtype, heads))
    trials = try_all({name: partial(try_one, prepare) for name, prepare in offered.items()})
    choice = choose(reference_s, trials, dtype)
    by = "torch's kernel" if choice is None else choice
    logger.info("attention along paths by %s (%s)", by, describe(reference_s, trials))
    return rival if choice is None else offered[choice]


def _timed(prepare: Prepare, device: str, dtype: torch.dtype, heads: Heads) -> Call:
    """All tokens' attention in one layer."""
    inputs, total = Inputs(device, dtype), TIMED_SPANS[-1][1]
    q_TNH, k_TKH, v_TKH = (
        inputs.randn(total, number, heads[2]) for number in (heads[0], heads[1], heads[1])
    )
    arrays, attention = prepare(TIMED_SPANS, [total - 1], Recall())
    paths = attention(send(arrays, device))
    return lambda: paths.attend(q_TNH, k_TKH, v_TKH, 0)
