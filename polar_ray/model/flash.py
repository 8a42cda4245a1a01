"""Which of torch's variable-length flash kernels does path attention rightly on this device.

Their names and arguments differ between torch 2.10 and 2.13, their abilities between devices, so
each is tried against `BlockedAttention` on a small tree before it is used. Torch only.

Shape suffixes: T packed tokens, N query heads, K key/value heads, H head dim.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from polar_ray.model.attention import BlockedAttention, Recall, SpanTuple
from polar_ray.model.paths import Prepare, by_varlen
from polar_ray.model.varlen import Varlen

logger = logging.getLogger(__name__)


def _varlen_attn(*args: Any, **options: Any) -> Tensor:
    entry: Any = import_module("torch.nn.attention.varlen").varlen_attn
    out: Tensor = entry(*args, **options)
    return out


def flash_window(*args: Any) -> Tensor:
    """torch >= 2.12: causal is a window without a right side, GQA an option."""
    return _varlen_attn(*args, window_size=(-1, 0), enable_gqa=True)


def flash_window_alone(*args: Any) -> Tensor:
    """torch 2.11: the window, and no option; whether GQA works shows in the trial."""
    return _varlen_attn(*args, window_size=(-1, 0))


def flash_causal(*args: Any) -> Tensor:
    """torch 2.10: causal is a flag; whether GQA works shows in the trial."""
    return _varlen_attn(*args, is_causal=True)


def flash_aten(*args: Any) -> Tensor:
    """The operator below both, which all versions have."""
    out: Tensor = torch.ops.aten._flash_attention_forward(*args, 0.0, True, False)[0]
    return out


CANDIDATES: tuple[Varlen, ...] = (flash_window, flash_window_alone, flash_causal, flash_aten)

IMPLEMENTATIONS = ("FA4", "FA3", None)
"""What torch's entry points can be made to call, newest first; None: torch's own."""


def find_varlen(
    device: str,
    dtype: torch.dtype,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    candidates: Sequence[Varlen] = CANDIDATES,
) -> Varlen | None:
    """The first of `candidates` that computes path attention rightly here, on the newest flash
    attention with which one does; None, and a warning, if none does."""
    for implementation in IMPLEMENTATIONS:
        if not activate(implementation):
            continue
        by = implementation or "torch's own flash attention"
        for candidate in candidates:
            name = getattr(candidate, "__name__", "varlen")
            try:
                found = by_varlen(candidate)
                error = trial(found, device, dtype, num_heads, num_kv_heads, head_dim)
            except (RuntimeError, TypeError, ValueError, ImportError, AttributeError) as refusal:
                logger.debug("%s does not run here on %s: %s", name, by, refusal)
                continue
            if error <= TRIAL_TOLERANCE:
                logger.info("attention by %s on %s", name, by)
                return candidate
            logger.warning("%s on %s is off by %.3g here and is not used", name, by, error)
        if implementation is not None:
            logger.warning("%s is installed and does not work here: it is not used", implementation)
    logger.warning(
        "no flash attention works here (%s, %s, %d and %d heads of %d): attention is computed in "
        "blocks, which takes several times as long",
        device,
        str(dtype).removeprefix("torch."),
        num_heads,
        num_kv_heads,
        head_dim,
    )
    return None


TRIAL_TOLERANCE = 0.02
"""Largest error of the trial's outputs, which are of size 1, in 16-bit arithmetic."""

TRIAL_SPANS: tuple[SpanTuple, ...] = ((0, 70, -1), (70, 75, 0), (75, 205, 0), (205, 206, 2))
TRIAL_ENDS = (74, 204, 204, 205)


def trial(
    prepare: Prepare,
    device: str,
    dtype: torch.dtype,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> float:
    """The largest error of an attention on a small tree, against `BlockedAttention` in float32."""
    random = torch.Generator().manual_seed(0)
    total = TRIAL_SPANS[-1][1]
    q_TNH, k_TKH, v_TKH = (
        torch.randn(total, heads, head_dim, generator=random).to(device, dtype)
        for heads in (num_heads, num_kv_heads, num_kv_heads)
    )
    ends = list(TRIAL_ENDS)
    arrays, attention = prepare(TRIAL_SPANS, ends, Recall())
    fast = attention([torch.from_numpy(array).to(device, torch.int32) for array in arrays])
    slow = BlockedAttention(TRIAL_SPANS, ends)
    q, k, v = (x.float() for x in (q_TNH, k_TKH, v_TKH))
    found = fast.attend(q_TNH, k_TKH, v_TKH, 0).float()
    found_ends = fast.attend_ends(q_TNH[ends], k_TKH, v_TKH, 0).float()
    error = (found - slow.attend(q, k, v, 0)).abs().max()
    end_error = (found_ends - slow.attend_ends(q[ends], k, v, 0)).abs().max()
    return float(torch.maximum(error, end_error))


def activate(implementation: str | None) -> bool:
    """Puts an implementation under torch's entry points, or torch's own back (None). False where
    torch does not know it, or its kernels are not there."""
    from torch.nn import attention

    if implementation is None:
        current = getattr(attention, "current_flash_attention_impl", lambda: None)
        if current() is not None:
            attention.restore_flash_attention_impl()
        return True
    if not hasattr(attention, "activate_flash_attention_impl") or not torch.cuda.is_available():
        return False
    try:
        attention.activate_flash_attention_impl(implementation)
    except (RuntimeError, ImportError, ValueError) as refusal:
        logger.debug("%s is not available: %s", implementation, refusal)
        return False
    return True
