"""How fast this machine multiplies matrices of the model's shapes: the roof over every engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from polar_ray.model import RewardModel


@torch.inference_mode()
def gemm_rate(
    model: RewardModel,
    rows: Sequence[int],
    *,
    clock: Callable[[], float] = time.process_time,
    seconds: float = 1.0,
) -> float:
    """Operations a second over one layer's weights, for inputs of so many `rows` each.

    The best of several passes, each over all `rows`, for at least so many `seconds` of `clock`;
    CPU seconds are what a busy machine disturbs least.
    """
    layer = model.model.blocks[0]
    weights = [
        layer.attention.wqkv.weight,
        layer.attention.wo.weight,
        layer.feed_forward.w1.weight,
        layer.feed_forward.w3.weight,
        layer.feed_forward.w2.weight,
    ]
    like = weights[0]
    inputs = {
        (n, w.shape[1]): torch.randn(n, w.shape[1], device=like.device).to(like.dtype)
        for n in set(rows)
        for w in weights
    }
    flops = 2 * sum(rows) * sum(w.numel() for w in weights)
    best, spent = 0.0, 0.0
    while spent < seconds:
        started = clock()
        for count in rows:
            for weight in weights:
                F.linear(inputs[count, weight.shape[1]], weight)
        if like.is_cuda:
            torch.cuda.synchronize()
        passed = clock() - started
        best, spent = max(best, flops / passed), spent + passed
    return best
