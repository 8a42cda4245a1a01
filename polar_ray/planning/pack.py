"""Packs: the tokens of one forward pass, as one stream without padding.

A pack is a forest of spans. A span's tokens see themselves causally and every token of its
ancestors, so that what records have in common stands in the pack once. `pack` plans whole batches;
`build_pack` takes any forest. Knows ids and lengths, never text or tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from polar_ray.planning.trie import (
    Counts,
    Forest,
    Ids,
    Order,
    grow,
    grow_from_stems,
    sort_records,
)

MIN_SHARE = 16
"""Tokens that two records must share beyond their parents for a span of its own to pay."""


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

    reusable: tuple[int, ...] = ()
    """Spans that later packs may continue; no record ends in them."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the forward pass computes."""
        return len(self.ids)


class _Unit(NamedTuple):
    """Records that stand in one pack: a group, or a piece of a large one."""

    num_tokens: int
    records: Counts
    forest: Forest
    reusable: list[int]


class _Sharing(NamedTuple):
    """See `pack`."""

    min_share: int
    kinds: Sequence[int] | None
    stems: Sequence[int] | None


def pack(
    ids: Sequence[Ids],
    *,
    max_tokens: int,
    min_share: int = MIN_SHARE,
    kinds: Sequence[int] | None = None,
    stems: Sequence[int] | None = None,
) -> Iterator[Pack]:
    """Every non-empty record of `ids` in exactly one pack, with shared prefixes once.

    A pack holds at most `max_tokens` tokens, or one record that is longer by itself. Records that
    share a prefix go together, largest groups first; a group over the budget is cut, its prefix
    repeated. Records of different `kinds` share nothing, however alike they begin. `stems` are
    leading tokens of each record that others will begin with, now or later: they get spans of
    their own, `Pack.reusable`.
    """
    sharing = _Sharing(min_share, kinds, stems)
    order = sort_records(ids, sharing.kinds)
    units = [
        unit
        for start, stop in _groups(order.shared, sharing.min_share)
        for unit in _units(ids, order, start, stop, max_tokens, sharing)
    ]
    units.sort(key=lambda unit: -unit.num_tokens)
    waiting: list[_Unit] = []
    room = max_tokens
    for unit in units:
        if waiting and unit.num_tokens > room:
            yield _join(waiting)
            waiting, room = [], max_tokens
        waiting.append(unit)
        room -= unit.num_tokens
    if waiting:
        yield _join(waiting)


def _groups(shared: Counts, min_share: int) -> list[tuple[int, int]]:
    """Runs of sorted records of which each shares a prefix with the next."""
    borders = [*np.flatnonzero(shared < min_share).tolist(), len(shared)]
    return list(pairwise(borders))


def _units(
    ids: Sequence[Ids], order: Order, start: int, stop: int, max_tokens: int, sharing: _Sharing
) -> Iterator[_Unit]:
    """The records start..stop of the order as units that fit, in as few pieces as they need."""
    records = order.records[start:stop]
    # What the first of a piece shares with the record before it is of no use to the piece.
    shared = np.concatenate(([0], order.shared[start + 1 : stop]))
    chosen = [ids[i] for i in records]
    if sharing.stems is None:
        forest = grow(chosen, shared, min_share=sharing.min_share)
        reusable: list[int] = []
    else:
        stems = [sharing.stems[i] for i in records]
        forest, reusable = grow_from_stems(chosen, shared, stems, min_share=sharing.min_share)
    num_tokens = sum(map(len, forest.pieces))
    if num_tokens <= max_tokens or len(records) == 1:
        yield _Unit(num_tokens, records, forest, reusable)
        return
    lengths = [len(one) for one in chosen]
    for first, last in pairwise(_cuts(lengths, shared.tolist(), max_tokens)):
        yield from _units(ids, order, start + first, start + last, max_tokens, sharing)


def _cuts(lengths: Sequence[int], shared: Sequence[int], max_tokens: int) -> list[int]:
    """Borders of the pieces of a large group, each filled as far as its records' sharing tells.

    A piece may still turn out a little too large, where short runs are not worth a span; then its
    last record is cut off, which is why there is always at least one border within.
    """
    borders, total = [0], 0
    for place, (length, common) in enumerate(zip(lengths, shared, strict=True)):
        if place > borders[-1] and total + length - common > max_tokens:
            borders.append(place)
            total = 0
        total += length if place == borders[-1] else length - common
    if len(borders) == 1:
        borders.append(len(lengths) - 1)
    return [*borders, len(lengths)]


def _join(units: Sequence[_Unit]) -> Pack:
    """The units' forests as one pack."""
    pieces: list[Ids] = []
    parents: list[int] = []
    leaves: list[int] = []
    reusable: list[int] = []
    for unit in units:
        base = len(pieces)
        pieces += unit.forest.pieces
        parents += [parent + base if parent >= 0 else -1 for parent in unit.forest.parents]
        leaves += [leaf + base for leaf in unit.forest.leaves]
        reusable += [node + base for node in unit.reusable]
    records = np.concatenate([unit.records for unit in units])
    return build_pack(pieces, parents, leaves, records, reusable)


def build_pack(
    pieces: Sequence[Ids],
    parents: Sequence[int],
    leaves: Sequence[int],
    records: Sequence[int] | npt.NDArray[np.int64] | None = None,
    reusable: Sequence[int] = (),
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
            offsets[index] = offsets[parent] + sizes[parent]
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
        reusable=tuple(reusable),
    )
