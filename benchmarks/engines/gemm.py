"""How fast this machine multiplies matrices of the model's shapes: the roof over every engine.

Not by the engine's own choice of a product, but by the fastest of all that torch has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from polar_ray.model import ModelConfig, RewardModel
from polar_ray.model.linear import find_onednn

Product = Callable[[Tensor], Tensor]


@torch.inference_mode()
def gemm_rate(
    model: RewardModel,
    rows: Sequence[int],
    *,
    clock: Callable[[], float] = time.process_time,
    seconds: float = 1.0,
) -> float:
    """Operations a second over weights of one layer's shapes, for inputs of so many `rows` each.

    For each shape the fastest product counts, by the best of several passes over all `rows`, for at
    least so many `seconds` of `clock` in all; CPU seconds are what a busy machine disturbs least.
    """
    like = model.v_head.weight
    flops, spent = 0, 0.0
    made = shapes(model.config)
    for outputs, inputs in made:
        weight_OI = torch.randn(outputs, inputs, device=like.device).to(like.dtype)
        x_of = {n: torch.randn(n, inputs, device=like.device).to(like.dtype) for n in set(rows)}
        candidates = products(weight_OI)
        best, tried = [float("inf")] * len(candidates), 0.0
        while tried < seconds / len(made):
            for number, product in enumerate(candidates):
                started = clock()
                for count in rows:
                    product(x_of[count])
                if like.is_cuda:
                    torch.cuda.synchronize()
                passed = clock() - started
                best[number], tried = min(best[number], passed), tried + passed
        flops += 2 * sum(rows) * weight_OI.numel()
        spent += min(best)
    return flops / spent


def shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """Outputs and inputs of a layer's five linear maps."""
    width, wide = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    into = [(heads * config.head_dim, width), (wide, width), (wide, width)]
    return [*into, (width, width), (width, wide)]


def products(weight_OI: Tensor) -> list[Product]:
    """torch's own, and on a CPU those of oneDNN, with the weight packed beforehand and as it is."""
    if not weight_OI.is_cuda and (onednn := find_onednn()) is not None:
        packed = [onednn.pack(weight_OI), weight_OI]
        by_onednn: list[Product] = [partial(onednn.multiply, weight_OI=one) for one in packed]
        return [partial(F.linear, weight=weight_OI), *by_onednn]
    return [partial(F.linear, weight=weight_OI)]
