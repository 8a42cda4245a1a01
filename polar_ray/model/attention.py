"""Attention over a packed stream: each span sees itself causally and all of its ancestors.

Shape suffixes: T packed tokens, S tokens of one span, C tokens that a span sees, R records,
N query heads, K key/value heads, G query heads for each key/value head, H head dim.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SpanTuple = tuple[int, int, int]
"""(start, stop, parent): tokens of the stream, and the number of the span they continue, or -1."""

Ranges = Sequence[tuple[int, int]]

BLOCK = 256
"""Query rows of one call: keys after a block's last row are left out instead of masked."""


def attend(q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, spans: Sequence[SpanTuple]) -> Tensor:
    """Softmax attention of every token, [T, N, H]. Differentiable; nothing of T x T is built."""
    out = []
    for span, seen in zip(spans, paths(spans), strict=True):
        k_CKH, v_CKH = _gather(k_TKH, seen), _gather(v_TKH, seen)
        start, stop, _ = span
        past = len(k_CKH) - (stop - start)
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            reach = past + last - start
            out.append(_block(q_TNH[first:last], k_CKH[:reach], v_CKH[:reach]))
    return torch.cat(out)


def attend_ends(
    q_RNH: Tensor,
    k_TKH: Tensor,
    v_TKH: Tensor,
    spans: Sequence[SpanTuple],
    ends: Sequence[int],
) -> Tensor:
    """The rows of `attend` for the tokens `ends` alone, [R, N, H]; `q_RNH` holds their queries."""
    seen_by_end: dict[int, list[tuple[int, int]]] = {}
    starts = [start for start, _, _ in spans]
    all_paths = paths(spans)
    for end in set(ends):
        span = _span_of(starts, end)
        seen_by_end[end] = [*all_paths[span][:-1], (spans[span][0], end + 1)]
    out = []
    for row, end in enumerate(ends):
        seen = seen_by_end[end]
        out.append(_block(q_RNH[row : row + 1], _gather(k_TKH, seen), _gather(v_TKH, seen)))
    return torch.cat(out)


def paths(spans: Sequence[SpanTuple]) -> list[list[tuple[int, int]]]:
    """For each span, the ranges of tokens that its last token sees, root first."""
    found: list[list[tuple[int, int]]] = []
    for start, stop, parent in spans:
        found.append([*(found[parent] if parent >= 0 else []), (start, stop)])
    return found


def _span_of(starts: Sequence[int], token: int) -> int:
    return bisect_right(starts, token) - 1


def _gather(x_TKH: Tensor, ranges: Ranges) -> Tensor:
    """The tokens of all ranges; a view where there is only one."""
    parts = [x_TKH[start:stop] for start, stop in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _block(q_SNH: Tensor, k_CKH: Tensor, v_CKH: Tensor) -> Tensor:
    """Causal attention of S queries that are the last S of the C keys."""
    num_queries, num_keys, num_kv_heads = len(q_SNH), len(k_CKH), k_CKH.shape[1]
    q_KGSH = q_SNH.unflatten(1, (num_kv_heads, -1)).permute(1, 2, 0, 3)
    shape = (num_kv_heads, q_KGSH.shape[1], num_keys, q_KGSH.shape[3])
    # Query heads share their key/value head by a stride of zero, not by a copy.
    k_KGCH = k_CKH.transpose(0, 1)[:, None].expand(shape)
    v_KGCH = v_CKH.transpose(0, 1)[:, None].expand(shape)
    mask_SC = None
    if num_queries > 1:
        mask_SC = q_SNH.new_ones((num_queries, num_keys), dtype=torch.bool)
        mask_SC = mask_SC.tril(num_keys - num_queries)
    out_KGSH = F.scaled_dot_product_attention(q_KGSH, k_KGCH, v_KGCH, attn_mask=mask_SC)
    return out_KGSH.permute(2, 0, 1, 3).flatten(1, 2)
