"""Attention over a packed stream: each span sees itself causally and all of its ancestors.

`PathAttention` is what the model asks of an implementation. `BlockedAttention`, on the public
scaled_dot_product_attention, runs on any device and can be trained. K and V of spans
that were computed before come from a `Recall`.

Shape suffixes: T packed tokens, S tokens of one span, C tokens that a span sees, or rows of K and
V, R records, N query heads, K key/value heads, G query heads for each key/value head, H head dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

SpanTuple = tuple[int, int, int]
"""(start, stop, parent): tokens of the stream, and the number of the span they continue, or -1."""

BLOCK = 256
"""Query rows of one call: keys after a block's last row are left out instead of masked."""


class SpanKV(NamedTuple):
    """Keys and values of one span in one layer, positions applied."""

    k_SKH: Tensor
    v_SKH: Tensor


class Recall:
    """What one forward takes over from earlier ones and leaves to later ones."""

    def __init__(
        self,
        known: Mapping[int, Sequence[SpanKV]] | None = None,
        keep: Mapping[int, slice] | None = None,
    ) -> None:
        self.known = known or {}
        """By span, for each layer: spans that are empty in the stream."""

        self.keep = keep or {}
        """Spans to remember, and where they stand in the stream."""

        self.kept: dict[int, list[SpanKV]] = {number: [] for number in self.keep}
        """By span, layer after layer, filled by the forward."""

        self.known_sizes = {number: len(layers[0].k_SKH) for number, layers in self.known.items()}
        """Tokens of the known spans."""

    @property
    def num_known(self) -> int:
        """Tokens of all known spans."""
        return sum(self.known_sizes.values())

    def note(self, k_TKH: Tensor, v_TKH: Tensor) -> None:
        """Keeps what is to be kept of one layer."""
        for number, where in self.keep.items():
            # A copy: the part is a view of a tensor as large as the pack.
            self.kept[number].append(SpanKV(k_TKH[where].clone(), v_TKH[where].clone()))

    def pass_on(self, k_CKH: Tensor, v_CKH: Tensor, layer: int) -> None:
        """`note`, and what is known of one layer written into the last `num_known` rows."""
        self.note(k_CKH, v_CKH)
        if self.known:
            at = len(k_CKH) - self.num_known
            known = [layers[layer] for layers in self.known.values()]
            torch.cat([kv.k_SKH for kv in known], out=k_CKH[at:])
            torch.cat([kv.v_SKH for kv in known], out=v_CKH[at:])


class PathAttention(Protocol):
    """Softmax attention along the path from a token's root span to the token itself."""

    @property
    def room(self) -> int:
        """Rows that K and V must have behind those of the stream, for what is known already."""
        ...

    def attend(self, q_TNH: Tensor, k_CKH: Tensor, v_CKH: Tensor, layer: int) -> Tensor:
        """[T, N, H]; nothing of T x T is built. C is T and `room`, whose rows are filled here."""
        ...

    def attend_ends(self, q_RNH: Tensor, k_CKH: Tensor, v_CKH: Tensor, layer: int) -> Tensor:
        """The rows of `attend` for the records' last tokens alone, [R, N, H], from their queries.

        Each of them is the last token of a span.
        """
        ...


class BlockedAttention:
    """One call of SDPA for every `BLOCK` rows of a span. Differentiable."""

    room = 0
    """Known spans stay where they are."""

    def __init__(
        self, spans: Sequence[SpanTuple], ends: Sequence[int], recall: Recall | None = None
    ) -> None:
        self.sizes = [stop - start for start, stop, _ in spans]
        self.lines = lineages(spans)
        self.end_spans = spans_ending_at(spans, ends)
        self.recall = recall or Recall()

    def attend(self, q_TNH: Tensor, k_CKH: Tensor, v_CKH: Tensor, layer: int) -> Tensor:
        """See `PathAttention`."""
        parts = self._parts(k_CKH, v_CKH, layer)
        out = []
        for q_SNH, line in zip(torch.split(q_TNH, self.sizes), self.lines, strict=True):
            if not len(q_SNH):
                continue
            seen = _gather(parts, line)
            reach = len(seen.k_SKH) - len(q_SNH)
            for q_block in torch.split(q_SNH, BLOCK):
                reach += len(q_block)
                out.append(_block(q_block, seen.k_SKH[:reach], seen.v_SKH[:reach]))
        return torch.cat(out)

    def attend_ends(self, q_RNH: Tensor, k_CKH: Tensor, v_CKH: Tensor, layer: int) -> Tensor:
        """See `PathAttention`."""
        parts = self._parts(k_CKH, v_CKH, layer)
        out = [
            _block(q_1NH, *_gather(parts, self.lines[span]))
            for q_1NH, span in zip(torch.split(q_RNH, 1), self.end_spans, strict=True)
        ]
        return torch.cat(out)

    def _parts(self, k_TKH: Tensor, v_TKH: Tensor, layer: int) -> list[SpanKV]:
        # Splitting once, not slicing span by span, keeps the backward pass linear in T.
        pairs = zip(torch.split(k_TKH, self.sizes), torch.split(v_TKH, self.sizes), strict=True)
        parts = [SpanKV(k_SKH, v_SKH) for k_SKH, v_SKH in pairs]
        self.recall.note(k_TKH, v_TKH)
        for number, layers in self.recall.known.items():
            parts[number] = layers[layer]
        return parts


def lineages(spans: Sequence[SpanTuple]) -> list[list[int]]:
    """For each span, the spans that it sees by number: its ancestors, root first, and itself."""
    lines: list[list[int]] = []
    for number, (_, _, parent) in enumerate(spans):
        lines.append([*(lines[parent] if parent >= 0 else []), number])
    return lines


def spans_ending_at(spans: Sequence[SpanTuple], ends: Sequence[int]) -> list[int]:
    """For each of `ends`, tokens of the stream, the span whose last token it is."""
    at = {stop - 1: number for number, (start, stop, _) in enumerate(spans) if stop > start}
    return [at[end] for end in ends]


def _gather(parts: Sequence[SpanKV], line: Sequence[int]) -> SpanKV:
    """The tokens of a line of spans; a view where there is only one."""
    if len(line) == 1:
        return parts[line[0]]
    return SpanKV(
        torch.cat([parts[i].k_SKH for i in line]), torch.cat([parts[i].v_SKH for i in line])
    )


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
