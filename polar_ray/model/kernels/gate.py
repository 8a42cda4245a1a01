"""silu(gate) * up in one kernel.

Removes a pass over the feed-forward's width: with the norms and rotations, run one by one, it is a
modelled 5.3 % of a 7B and 8.8 % of a 1.8B forward on an H200, of which about 2 points come back.
Proven in Triton's interpreter, not measured on a GPU.

Shape suffixes: T tokens, F feed-forward dim.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _gate(
    gate_ptr,
    up_ptr,
    out_ptr,
    gate_stride,
    up_stride,
    width,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(gate_ptr + row * gate_stride + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + columns, mask=inside, other=0.0).to(tl.float32)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * width + columns, out.to(out_ptr.dtype.element_ty), mask=inside)


def gate(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """See `polar_ray.model.steps.Gate`. Rows may lie apart, as halves of one product do."""
    rows, width = gate_TF.shape
    out_TF = torch.empty(rows, width, dtype=gate_TF.dtype, device=gate_TF.device)
    grid = (rows, triton.cdiv(width, BLOCK))
    _gate[grid](gate_TF, up_TF, out_TF, gate_TF.stride(0), up_TF.stride(0), width, BLOCK=BLOCK)
    return out_TF
