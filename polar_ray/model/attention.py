"""Attention over a packed stream: each span sees itself causally and all of its ancestors.

Shape suffixes: T packed tokens, S tokens of one span, C tokens that a span sees, N query heads,
K key/value heads, H head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SpanTuple = tuple[int, int, int]
"""(start, stop, parent): tokens of the stream, and the number of the span they continue, or -1."""


def attend(q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, spans: Sequence[SpanTuple]) -> Tensor:
    """Softmax attention, [T, N, H]. Differentiable; never builds anything of T x T."""
    out = [
        _attend_span(
            q_TNH[span[0] : span[1]],
            torch.cat([k_TKH[a:b] for a, b in seen]) if len(seen) > 1 else k_TKH[slice(*seen[0])],
            torch.cat([v_TKH[a:b] for a, b in seen]) if len(seen) > 1 else v_TKH[slice(*seen[0])],
        )
        for span, seen in zip(spans, paths(spans), strict=True)
    ]
    return torch.cat(out)


def paths(spans: Sequence[SpanTuple]) -> list[list[tuple[int, int]]]:
    """For each span, the ranges of tokens that its last token sees, root first."""
    found: list[list[tuple[int, int]]] = []
    for start, stop, parent in spans:
        found.append([*(found[parent] if parent >= 0 else []), (start, stop)])
    return found


def _attend_span(q_SNH: Tensor, k_CKH: Tensor, v_CKH: Tensor) -> Tensor:
    num_queries, num_keys = q_SNH.shape[0], k_CKH.shape[0]
    repeats = q_SNH.shape[1] // k_CKH.shape[1]
    q_NSH = q_SNH.transpose(0, 1)
    k_NCH = k_CKH.transpose(0, 1).repeat_interleave(repeats, 0)
    v_NCH = v_CKH.transpose(0, 1).repeat_interleave(repeats, 0)
    mask = None
    if num_queries != num_keys:
        # Queries are the last of the keys; SDPA's own causal flag would align them with the first.
        ones = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q_SNH.device)
        mask = ones.tril(num_keys - num_queries)
    out_1NSH = F.scaled_dot_product_attention(
        q_NSH[None], k_NCH[None], v_NCH[None], attn_mask=mask, is_causal=mask is None
    )
    return out_1NSH[0].transpose(0, 1)
