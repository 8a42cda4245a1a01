"""What CUDA's kernels refuse, and torch's fake tensors do not: checked from arguments alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

REFUSED_ROWS, REFUSED_INPUTS = 256, 3072
"""Row-wise scaled products of at most so many rows, and more inputs than that, are refused by
cuBLAS on Hopper (github.com/pytorch/ao/issues/4582: 9216 inputs fail, 3072 do not)."""


class Fault(AssertionError):
    """What would fail, or wait, on a real device."""


def check_flash(
    q: Tensor, k: Tensor, v: Tensor, q_borders: Tensor, k_borders: Tensor, most_q: Any, most_k: Any
) -> None:
    """Raises `Fault` for what variable-length flash attention refuses."""
    checks = {
        "16-bit floats, all alike": q.dtype in (torch.float16, torch.bfloat16)
        and k.dtype == v.dtype == q.dtype,
        "[tokens, heads, dim]": q.dim() == k.dim() == v.dim() == 3 and k.shape == v.shape,
        "whole rows of dims": q.stride(-1) == k.stride(-1) == v.stride(-1) == 1,
        "query heads a multiple of the others": q.shape[1] % k.shape[1] == 0,
        "a dim of at most 256, a multiple of 8": q.shape[2] <= 256 and q.shape[2] % 8 == 0,
        "int32 borders": q_borders.dtype == k_borders.dtype == torch.int32,
        "contiguous borders": q_borders.is_contiguous() and k_borders.is_contiguous(),
        "as many runs of queries as of keys": q_borders.numel() == k_borders.numel() > 1,
        "lengths known to the host": isinstance(most_q, int) and isinstance(most_k, int),
        "something in every run": most_q > 0 and most_k > 0,
        "all on the device": all(x.device.type == "cuda" for x in (q, k, v, q_borders, k_borders)),
    }
    for wanted, holds in checks.items():
        if not holds:
            raise Fault(f"flash attention wants {wanted}")


def check_scaled_product(a: Tensor, b: Tensor) -> None:
    """Raises what cuBLAS answers to float8 products that it refuses."""
    rows, inputs = a.shape
    if a.stride(-1) != 1 or b.stride(0) != 1:
        raise Fault("a float8 product wants a in rows and b in columns")
    if inputs % 16 or b.shape[1] % 16:
        raise Fault(f"a float8 product wants multiples of 16, not {inputs} x {b.shape[1]}")
    if rows <= REFUSED_ROWS and inputs > REFUSED_INPUTS:
        raise RuntimeError(f"CUDA error: CUBLAS_STATUS_NOT_SUPPORTED, {rows} rows of {inputs}")
