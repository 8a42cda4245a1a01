"""Linear layers in 8 bits, put into a model from outside: int8 on a CPU, float8 on Hopper.

Weights are rounded once, with a scale for each output; activations at every call, with a scale for
each token, so that no token's score depends on its neighbours. Embeddings, norms and the head stay
as they are. Whether the scores are still good enough is measured, not assumed: see
`benchmarks/precision.py`.

Shape suffixes: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polar_ray.model.internlm2 import RewardModel
from polar_ray.model.steps import PLAIN, SMALLEST, Steps, round_rows

INT8_MOST = 127.0

INT8_INPUTS = range(2, 1 << 17)
"""Of integer products: torch is wrong about a single one, and more may overflow 32 bits."""

LEAST_ROWS = 272
"""cuBLAS refuses row-wise scaled products of 256 rows or fewer where there are many inputs: those
get rows of zeros, for which the device takes no longer."""

Kind = Literal["int8", "fp8"]


class _Linear8(nn.Module):
    """Holds the rounded weight [O, I] and its scales [O]."""

    weight_OI: Tensor
    scale_O: Tensor
    bias: Tensor | None
    round_activations: Callable[[Tensor], tuple[Tensor, Tensor]]
    """As `round` does, or faster."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight_OI, scale_O1 = self.round(linear.weight.float())
        self.register_buffer("weight_OI", weight_OI)
        self.register_buffer("scale_O", scale_O1[:, 0])
        self.register_buffer("bias", linear.bias)
        self.round_activations = self.round

    @staticmethod
    def round(x: Tensor) -> tuple[Tensor, Tensor]:
        """x in 8 bits, and for each of its rows the scale [rows, 1] that gives x back."""
        raise NotImplementedError

    def multiply(self, x_TI: Tensor, scale_T1: Tensor, dtype: torch.dtype) -> Tensor:
        """The product of two rounded matrices, scaled back, [T, O]."""
        raise NotImplementedError

    def forward(self, x_TI: Tensor) -> Tensor:
        rounded_TI, scale_T1 = self.round_activations(x_TI)
        out_TO = self.multiply(rounded_TI, scale_T1, x_TI.dtype)
        return out_TO if self.bias is None else out_TO + self.bias


class Int8Linear(_Linear8):
    """Integer products on a CPU: two to three times float32 where it has VNNI."""

    @staticmethod
    def round(x: Tensor) -> tuple[Tensor, Tensor]:
        """See `_Linear8`."""
        scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST) / INT8_MOST
        return (x / scale).round_().to(torch.int8), scale

    def multiply(self, x_TI: Tensor, scale_T1: Tensor, dtype: torch.dtype) -> Tensor:
        """See `_Linear8`."""
        sums_TO = torch._int_mm(x_TI, self.weight_OI.t())
        return sums_TO.to(dtype).mul_(scale_T1).mul_(self.scale_O)


class Fp8Linear(_Linear8):
    """Row-wise scaled float8 products: tensor cores of Hopper and later."""

    @staticmethod
    def round(x: Tensor) -> tuple[Tensor, Tensor]:
        """See `_Linear8`."""
        return round_rows(x)

    def forward(self, x_TI: Tensor) -> Tensor:
        """See `nn.Linear`."""
        missing = LEAST_ROWS - len(x_TI)
        if missing <= 0:
            return super().forward(x_TI)
        return super().forward(F.pad(x_TI, (0, 0, 0, missing)))[: len(x_TI)]

    def multiply(self, x_TI: Tensor, scale_T1: Tensor, dtype: torch.dtype) -> Tensor:
        """See `_Linear8`."""
        out_TO: Tensor = torch._scaled_mm(
            x_TI,
            self.weight_OI.t(),
            scale_a=scale_T1,
            scale_b=self.scale_O[None],
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return out_TO.to(dtype)


KINDS: dict[str, type[_Linear8]] = {"int8": Int8Linear, "fp8": Fp8Linear}


def quantize(model: RewardModel, kind: Kind, steps: Steps = PLAIN) -> None:
    """Puts 8-bit layers into every block, one at a time, so that no second copy is ever whole.
    float8 activations are rounded by `steps`. A layer that integers cannot do stays as it is."""
    for block in model.model.blocks:
        for parent in (block.attention, block.feed_forward):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    if kind == "int8" and child.in_features not in INT8_INPUTS:
                        continue
                    layer = KINDS[kind](child)
                    if isinstance(layer, Fp8Linear):
                        layer.round_activations = steps.round_rows
                    setattr(parent, name, layer)
