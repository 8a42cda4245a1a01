"""Packs: the tokens of one forward pass, as one stream without padding.

A pack is a forest of spans. A span's tokens see themselves causally and every token of its
ancestors, so that what records have in common can stand in the pack once. `pack` gives each record
a root span of its own; `build_pack` takes any forest. Knows ids and lengths, never text or tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


class Span(NamedTuple):
    """Tokens `start` up to `stop` of a pack; they continue span number `parent` (-1: nothing)."""

    start: int
    stop: int
    parent: int = -1


@dataclass(frozen=True, slots=True)
class Pack:
    """One forward's tokens. T tokens hold R records."""

    ids: Ids
    """int32 [T]"""

    positions: Ids
    """int32 [T], counted from the start of each record."""

    lengths: Ids
    """int32 [T], tokens of the longest record that this token is part of."""

    spans: tuple[Span, ...]
    """They cover the T tokens in order, parents before children."""

    ends: npt.NDArray[np.int64]
    """int64 [R], where in the stream each record's last token stands."""

    records: npt.NDArray[np.int64]
    """int64 [R], the place of each record in the sequence that was packed."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the forward pass computes."""
        return len(self.ids)


def pack(ids: Sequence[Ids], *, max_tokens: int) -> Iterator[Pack]:
    """Every non-empty record of `ids` in exactly one pack, longest first.

    A pack holds at most `max_tokens` tokens, or one record that is longer by itself.
    """
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        # Sorted by length, so the next records fill a pack to within its shortest member.
        filled = np.cumsum(lengths[order[start:]])
        count = max(1, int(np.searchsorted(filled, max_tokens, side="right")))
        chosen = order[start : start + count]
        yield build_pack([ids[i] for i in chosen], [-1] * count, range(count), chosen)
        start += count


def build_pack(
    pieces: Sequence[Ids],
    parents: Sequence[int],
    leaves: Sequence[int],
    records: Sequence[int] | npt.NDArray[np.int64] | None = None,
) -> Pack:
    """A pack of `pieces`, each a span under `parents[i]` (-1: a root; parents stand first).

    `leaves[r]` is the piece at whose last token record r is scored; `records[r]` names it to the
    caller (default: r).
    """
    sizes = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    stops = np.cumsum(sizes)
    starts = stops - sizes
    offsets = np.zeros(len(pieces), dtype=np.int64)
    for index, parent in enumerate(parents):
        if parent >= 0:
            offsets[index] = offsets[parent] + len(pieces[parent])
    totals = offsets + sizes
    for index in range(len(pieces) - 1, -1, -1):
        if parents[index] >= 0:
            totals[parents[index]] = max(totals[parents[index]], totals[index])
    positions = np.arange(stops[-1]) - np.repeat(starts, sizes) + np.repeat(offsets, sizes)
    chosen = np.arange(len(leaves)) if records is None else np.asarray(records)
    return Pack(
        ids=np.concatenate(list(pieces)).astype(np.int32, copy=False),
        positions=positions.astype(np.int32),
        lengths=np.repeat(totals, sizes).astype(np.int32),
        spans=tuple(map(Span, starts.tolist(), stops.tolist(), parents)),
        ends=stops[list(leaves)] - 1,
        records=chosen.astype(np.int64),
    )
