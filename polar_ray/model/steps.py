"""What a layer does between its matrix products, in plain torch: the reference for the kernels of
`polar_ray.model.kernels`, and what runs where they do not.

Shape suffixes: T tokens, D model dim, F feed-forward dim, N query heads, K key/value heads, S slots
of each of these in the fused projection (its query heads, then k, then v), H head dim, I inputs of
a product.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FP8 = torch.float8_e4m3fn
FP8_MOST = 448.0
SMALLEST = 1e-12
"""Of the largest value of a row that is rounded."""

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, both [T, 1, H], both halves of H alike."""


class AddNorm(Protocol):
    def __call__(self, x_TD: Tensor, more_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        """Adds `more_TD` to `x_TD` in place; the RMS norm of the sum."""
        ...


class Gate(Protocol):
    def __call__(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        """silu(gate) * up."""
        ...


class Rope(Protocol):
    def __call__(
        self,
        qkv_TKSH: Tensor,
        cos_T1H: Tensor,
        sin_T1H: Tensor,
        q_TNH: Tensor | None,
        k_TKH: Tensor,
        v_TKH: Tensor,
    ) -> None:
        """Turns queries and keys of a projection, and writes them and the values into the last
        three. `q_TNH` is None where the projection has slots for k and v alone."""
        ...


class RoundRows(Protocol):
    def __call__(self, x_TI: Tensor) -> tuple[Tensor, Tensor]:
        """x in float8, and for each of its rows the scale, float32 [T, 1], that gives x back."""
        ...


def add_norm(x_TD: Tensor, more_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """See `AddNorm`."""
    return F.rms_norm(x_TD.add_(more_TD), weight_D.shape, weight_D, eps)


def gate(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """See `Gate`."""
    return F.silu(gate_TF) * up_TF


def rope(
    qkv_TKSH: Tensor,
    cos_T1H: Tensor,
    sin_T1H: Tensor,
    q_TNH: Tensor | None,
    k_TKH: Tensor,
    v_TKH: Tensor,
) -> None:
    """See `Rope`."""
    rotation = cos_T1H, sin_T1H
    if q_TNH is not None:
        q_TNH.copy_(rotate(qkv_TKSH[:, :, :-2].flatten(1, 2), rotation))
    k_TKH.copy_(rotate(qkv_TKSH[:, :, -2], rotation))
    v_TKH.copy_(qkv_TKSH[:, :, -1])


def rotate(x_TNH: Tensor, rotation: Rotation) -> Tensor:
    """Rotary embedding: dimension i is paired with i + H / 2."""
    cos_T1H, sin_T1H = rotation
    left, right = x_TNH.chunk(2, dim=-1)
    return x_TNH * cos_T1H + torch.cat((-right, left), dim=-1) * sin_T1H


def round_rows(x_TI: Tensor) -> tuple[Tensor, Tensor]:
    """See `RoundRows`."""
    # One kernel for the largest size, two for the quotient: what lies above FP8_MOST by a rounding
    # error becomes FP8_MOST, so that nothing need be clamped.
    most_T1 = torch.linalg.vector_norm(x_TI, torch.inf, dim=-1, keepdim=True)
    scale_T1 = most_T1.float().clamp_(min=SMALLEST) / FP8_MOST
    return (x_TI / scale_T1).to(FP8), scale_T1


def adds_by_itself(linear: nn.Module) -> bool:
    """Whether nothing comes between a product and its being added to something: no bias, no sum
    over ranks, and no product but torch's own."""
    plain = type(linear) is nn.Linear and getattr(linear, "bias", None) is None
    return plain and not linear._forward_hooks


def add_product(x_TD: Tensor, linear: nn.Module, y_TF: Tensor) -> Tensor:
    """`x_TD`, to which `linear` of `y_TF` was added: within the product where that can be."""
    if adds_by_itself(linear):
        return x_TD.addmm_(y_TF, cast(nn.Linear, linear).weight.t())
    return x_TD.add_(linear(y_TF))


class Steps(NamedTuple):
    """Which implementation each step has."""

    add_norm: AddNorm = add_norm
    gate: Gate = gate
    rope: Rope = rope
    round_rows: RoundRows = round_rows


PLAIN = Steps()
