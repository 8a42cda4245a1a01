"""This project's Triton kernels on `FakeCuda`: their arguments checked, one operation each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engines.fake_cuda import FakeCuda, Op
from engines.refusals import Fault
from polar_ray.model.paths import Prepare, TiledKernel, by_tiles
from polar_ray.model.quantized import Fp8Linear
from polar_ray.model.steps import FP8, Steps

ROWS, ENDS_ROWS = 128, 16
"""Of a tile of all tokens, and of the ends."""


OWN = ("add_norm", "gate", "rope", "round_rows", "path_attention")


def give_kernels(device: FakeCuda, engine: Any, group: int) -> None:
    """Has an engine use them, for `group` query heads to a key/value head."""
    kernels = FakeKernels(device)
    engine.model.steps, engine._prepare = kernels.steps, kernels.prepare(group)
    for layer in engine.model.modules():
        if isinstance(layer, Fp8Linear):
            layer.round_activations = kernels.steps.round_rows


class FakeKernels:
    """Makes what the kernels make, of tensors that have the strides that they reckon with."""

    def __init__(self, device: FakeCuda) -> None:
        self._device = device
        self.steps = Steps(self._add_norm, self._gate, self._rope, self._round_rows)

    def prepare(self, group: int) -> Prepare:
        """Attention by tiles, for `group` query heads to a key/value head."""
        kernel = self._path_attention
        return by_tiles(TiledKernel(kernel, ROWS), TiledKernel(kernel, ENDS_ROWS), group)

    def _add_norm(self, x: Tensor, more: Tensor, weight: Tensor, eps: float) -> Tensor:
        _check(whole_rows=x.stride(-1) == more.stride(-1) == weight.stride(0) == 1)
        out = torch.empty_like(x)
        self._note("add_norm", [x, more, weight], [x, out])
        return out

    def _gate(self, gate: Tensor, up: Tensor) -> Tensor:
        _check(
            whole_rows=gate.stride(-1) == up.stride(-1) == 1,
            halves_of_one_product=gate.stride(0) == 2 * gate.shape[1],
        )
        out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
        self._note("gate", [gate, up], [out])
        return out

    def _rope(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, q: Tensor | None, k: Tensor, v: Tensor
    ) -> None:
        tokens, heads, slots, size = qkv.shape
        _check(
            whole_projections=qkv.is_contiguous(),
            whole_angles=cos.is_contiguous() and cos.shape == sin.shape == (tokens, 1, size),
            rows_for_keys=k.shape == v.shape == (tokens, heads, size) and _heads_in_rows(k, v),
            keys_and_values_alike=k.stride() == v.stride(),
            queries_where_there_are_slots=(q is None) == (slots == 2),
        )
        if q is not None:
            shape = (tokens, heads * (slots - 2), size)
            _check(rows_for_queries=q.shape == shape and _heads_in_rows(q))
        self._note("rope", [qkv, cos, sin], [x for x in (q, k, v) if x is not None])

    def _round_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _check(whole_rows=x.stride(-1) == 1)
        out = torch.empty(x.shape, dtype=FP8, device=x.device)
        scale = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
        self._note("round_rows", [x], [out, scale])
        return out, scale

    def _path_attention(self, q: Tensor, k: Tensor, v: Tensor, *plan: Tensor) -> Tensor:
        _check(
            whole_queries=q.is_contiguous(),
            keys_and_values_alike=k.stride() == v.stride() and k.shape == v.shape,
            heads_of_keys_in_rows=_heads_in_rows(k, v),
            plans_in_contiguous_int32=len(plan) == 5
            and all(x.dtype == torch.int32 and x.is_contiguous() for x in plan),
        )
        out = torch.empty_like(q)
        self._note("path_attention", [q, k, v, *plan], [out])
        return out

    def _note(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        _check(all_on_the_device=all(x.device.type == "cuda" for x in (*inputs, *outputs)))
        moved = sum(x.numel() * x.element_size() for x in (*inputs, *outputs))
        shapes = tuple(tuple(x.shape) for x in inputs)
        self._device.trace.ops.append(Op(name, shapes, moved, 0))


def _check(**wanted: bool) -> None:
    for what, holds in wanted.items():
        if not holds:
            raise Fault(f"a kernel wants {what.replace('_', ' ')}")


def _heads_in_rows(*tensors: Tensor) -> bool:
    return all(x.stride(-1) == 1 and x.stride(-2) == x.shape[-1] for x in tensors)
