"""Variable-length attention in elementary operations, for tests on devices without flash."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def plain(
    q_XNH: Tensor,
    k_CKH: Tensor,
    v_CKH: Tensor,
    query_borders: Tensor,
    key_borders: Tensor,
    most_queries: int,
    most_keys: int,
) -> Tensor:
    """A `Varlen` in elementary operations, for devices without flash attention."""
    out = []
    queries, keys = query_borders.tolist(), key_borders.tolist()
    group = q_XNH.shape[1] // k_CKH.shape[1]
    for (q0, q1), (k0, k1) in zip(pairwise(queries), pairwise(keys), strict=True):
        q_NXH = q_XNH[q0:q1].transpose(0, 1).float()
        k_NCH, v_NCH = (
            x[k0:k1].transpose(0, 1).repeat_interleave(group, dim=0).float() for x in (k_CKH, v_CKH)
        )
        logits_NXC = q_NXH @ k_NCH.transpose(1, 2) / q_NXH.shape[-1] ** 0.5
        seen_XC = torch.ones_like(logits_NXC[0], dtype=torch.bool).tril((k1 - k0) - (q1 - q0))
        weights_NXC = logits_NXC.masked_fill(~seen_XC, -torch.inf).softmax(-1)
        out.append((weights_NXC @ v_NCH).transpose(0, 1).to(q_XNH.dtype))
    return torch.cat(out)
