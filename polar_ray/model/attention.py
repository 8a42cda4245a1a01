"""Attention over a packed stream: each span sees itself causally and all of its ancestors.

Shape suffixes: T packed tokens, S tokens of one span, C tokens that a span sees, R records,
N query heads, K key/value heads, G query heads for each key/value head, H head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SpanTuple = tuple[int, int, int]
"""(start, stop, parent): tokens of the stream, and the number of the span they continue, or -1."""

BLOCK = 256
"""Query rows of one call: keys after a block's last row are left out instead of masked."""


def attend(q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, spans: Sequence[SpanTuple]) -> Tensor:
    """Softmax attention of every token, [T, N, H]. Differentiable; nothing of T x T is built."""
    # Splitting once, not slicing span by span, keeps the backward pass linear in T.
    q_parts, k_parts, v_parts = (_split(x, spans) for x in (q_TNH, k_TKH, v_TKH))
    out = []
    for q_SNH, line in zip(q_parts, lineages(spans), strict=True):
        k_CKH, v_CKH = _gather(k_parts, line), _gather(v_parts, line)
        reach = len(k_CKH) - len(q_SNH)
        for q_block in q_SNH.split(BLOCK):
            reach += len(q_block)
            out.append(_block(q_block, k_CKH[:reach], v_CKH[:reach]))
    return torch.cat(out)


def attend_ends(
    q_RNH: Tensor,
    k_TKH: Tensor,
    v_TKH: Tensor,
    spans: Sequence[SpanTuple],
    ends: Sequence[int],
) -> Tensor:
    """The rows of `attend` for the tokens `ends` alone, [R, N, H]; `q_RNH` holds their queries.

    Each end is the last token of a span.
    """
    k_parts, v_parts = _split(k_TKH, spans), _split(v_TKH, spans)
    span_ending_at = {stop - 1: number for number, (_, stop, _) in enumerate(spans)}
    lines = lineages(spans)
    out = []
    for q_1NH, end in zip(q_RNH.split(1), ends, strict=True):
        line = lines[span_ending_at[end]]
        out.append(_block(q_1NH, _gather(k_parts, line), _gather(v_parts, line)))
    return torch.cat(out)


def lineages(spans: Sequence[SpanTuple]) -> list[list[int]]:
    """For each span, the spans that it sees by number: its ancestors, root first, and itself."""
    lines: list[list[int]] = []
    for number, (_, _, parent) in enumerate(spans):
        lines.append([*(lines[parent] if parent >= 0 else []), number])
    return lines


def _split(x_TXH: Tensor, spans: Sequence[SpanTuple]) -> tuple[Tensor, ...]:
    return torch.split(x_TXH, [stop - start for start, stop, _ in spans])


def _gather(parts: Sequence[Tensor], line: Sequence[int]) -> Tensor:
    """The tokens of a line of spans; a view where there is only one."""
    return parts[line[0]] if len(line) == 1 else torch.cat([parts[i] for i in line])


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
