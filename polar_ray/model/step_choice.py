"""Which steps of a layer a kernel does on this device, tried on a layer's own shapes.

Shape suffixes: T tokens, D model dim, F feed-forward dim, N query heads, K key/value heads, S slots
of each of these in the fused projection, H head dim.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polar_ray.model.choice import (
    Clock,
    Inputs,
    Trial,
    choose,
    cuda_seconds,
    describe,
    error,
    try_all,
)
from polar_ray.model.config import ModelConfig
from polar_ray.model.steps import PLAIN, Steps

logger = logging.getLogger(__name__)

RIGHT_ROWS, TIMED_ROWS = 77, 4096
"""Tokens of the trials: a number that fits no block, and enough to keep a device busy."""

Outputs = tuple[Tensor, ...]
Case = Callable[[Any], Outputs]
"""Runs a step on the inputs of a trial."""


def triton_steps() -> Steps:
    """All steps by kernels; `ImportError` where there is no Triton."""
    from polar_ray.model.kernels.add_norm import add_norm
    from polar_ray.model.kernels.gate import gate
    from polar_ray.model.kernels.rope import rope
    from polar_ray.model.kernels.round_rows import round_rows

    return Steps(add_norm, gate, rope, round_rows)


@torch.inference_mode()
def choose_steps(
    config: ModelConfig,
    device: str,
    dtype: torch.dtype,
    world_size: int = 1,
    *,
    in_fp8: bool = False,
    kernels: Callable[[], Steps] = triton_steps,
    clock: Clock = cuda_seconds,
) -> Steps:
    """For each step its kernel, where that is right and faster, or plain torch."""
    try:
        offered = kernels()
    except ImportError as missing:
        logger.warning("the steps of a layer are plain torch, slower than kernels: %s", missing)
        return PLAIN
    chosen, words = {}, []
    for name, make in (CASES | FP8_CASES if in_fp8 else CASES).items():
        plain, kernel = getattr(PLAIN, name), getattr(offered, name)
        trial = _Trial(partial(make, config, world_size), device, dtype, clock)
        reference_s = trial.seconds(plain)
        trials = try_all({name: partial(trial.run, kernel, plain)})
        if choose(reference_s, trials, dtype) is not None:
            chosen[name] = kernel
        by = "a kernel" if name in chosen else "torch"
        words.append(f"{name} by {by} ({describe(reference_s, trials)})")
    logger.info("steps of a layer: %s", "; ".join(words))
    return PLAIN._replace(**chosen)


class _Trial(NamedTuple):
    """What is tried of one step."""

    case: Callable[[Inputs, int], Case]
    device: str
    dtype: torch.dtype
    clock: Clock

    def seconds(self, step: Any) -> float:
        return self.clock(partial(self.case(Inputs(self.device, self.dtype), TIMED_ROWS), step))

    def run(self, kernel: Any, plain: Any) -> Trial:
        found = self.case(Inputs(self.device, self.dtype), RIGHT_ROWS)(kernel)
        exact = self.case(Inputs(self.device, self.dtype, exact=True), RIGHT_ROWS)(plain)
        return Trial(error(found, exact), self.seconds(kernel))


def _add_norm(config: ModelConfig, world_size: int, inputs: Inputs, rows: int) -> Case:
    width = config.hidden_size
    x_TD, more_TD = inputs.randn(rows, width), inputs.randn(rows, width)
    weight_D = inputs.randn(width)

    def run(step: Any) -> Outputs:
        return step(x_TD, more_TD, weight_D, config.rms_norm_eps), x_TD

    return run


def _gate(config: ModelConfig, world_size: int, inputs: Inputs, rows: int) -> Case:
    both = inputs.randn(rows, 2 * config.intermediate_size // world_size)

    def run(step: Any) -> Outputs:
        return (step(*both.chunk(2, dim=-1)),)

    return run


def _rope(config: ModelConfig, world_size: int, inputs: Inputs, rows: int) -> Case:
    kv_heads = config.num_key_value_heads // world_size
    group = config.num_attention_heads // config.num_key_value_heads
    size = config.head_dim
    qkv_TKSH = inputs.randn(rows, kv_heads, group + 2, size)
    # Not cosines and sines, but as good: both halves of a head have the same.
    cos_T1H, sin_T1H = (inputs.randn(rows, 1, size // 2).repeat(1, 1, 2) for _ in range(2))
    heads = (kv_heads * group, kv_heads, kv_heads)
    outs = tuple(qkv_TKSH.new_empty(rows, number, size) for number in heads)

    def run(step: Any) -> Outputs:
        step(qkv_TKSH, cos_T1H, sin_T1H, *outs)
        return outs

    return run


def _round_rows(config: ModelConfig, world_size: int, inputs: Inputs, rows: int) -> Case:
    x_TI = inputs.randn(rows, config.intermediate_size // world_size)

    def run(step: Any) -> Outputs:
        rounded_TI, scale_T1 = step(x_TI)
        # A number half-way between two may go to either, which is much of one number.
        parts = (rounded_TI.float() * scale_T1).chunk(8, dim=-1)
        return scale_T1, torch.stack([part.mean(dim=-1) for part in parts])

    return run


CASES: dict[str, Callable[[ModelConfig, int, Inputs, int], Case]] = {
    "add_norm": _add_norm,
    "gate": _gate,
    "rope": _rope,
}

FP8_CASES: dict[str, Callable[[ModelConfig, int, Inputs, int], Case]] = {"round_rows": _round_rows}
"""Where products are in float8."""
