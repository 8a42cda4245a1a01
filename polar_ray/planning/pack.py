"""Packs: the tokens of one forward pass, as one stream without padding.

A pack is a forest of spans. A token attends to the tokens before it in its span and to all tokens
of the span's ancestors, so a prefix that records share is computed once. `pack` plans whole
batches; `build_pack` makes one pack of any forest. Knows ids and lengths, never text or tensors.
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
    SortedRecords,
    build_forest,
    build_forest_with_prefixes,
    sort_records,
)

MIN_SHARE = 16
"""Tokens that a shared prefix must add to its parent span to be worth a span of its own."""


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


class _Item(NamedTuple):
    """Records that go into the same pack: all that share a prefix, or a part of them."""

    num_tokens: int
    records: Counts
    forest: Forest
    reusable: list[int]


def pack(
    ids: Sequence[Ids],
    *,
    max_tokens: int,
    min_share: int = MIN_SHARE,
    salts: Sequence[int] | None = None,
    prefix_lengths: Sequence[int] | None = None,
) -> Iterator[Pack]:
    """Every non-empty record of `ids` in exactly one pack, with shared prefixes once.

    A pack holds at most `max_tokens` tokens, or one record that is longer by itself. Records that
    share a prefix go together, the most tokens first; where they exceed the budget they are split,
    and the prefix is repeated. Records with different `salts` share nothing, even where their ids
    are equal. The first `prefix_lengths[i]` tokens of record i are a prefix that other records
    have, now or later: it gets a span of its own, listed in `Pack.reusable`.
    """
    order = sort_records(ids, salts)
    build = _Builder(ids, order, min_share, prefix_lengths)
    items = [
        item
        for start, stop in _groups(order.shared, min_share)
        for item in _items(build, start, stop, max_tokens)
    ]
    items.sort(key=lambda item: -item.num_tokens)
    chosen: list[_Item] = []
    remaining = max_tokens
    for item in items:
        if chosen and item.num_tokens > remaining:
            yield _join(chosen)
            chosen, remaining = [], max_tokens
        chosen.append(item)
        remaining -= item.num_tokens
    if chosen:
        yield _join(chosen)


def _groups(shared: Counts, min_share: int) -> list[tuple[int, int]]:
    """Runs (start, stop) of sorted records of which each shares a prefix with the next."""
    borders = [*np.flatnonzero(shared < min_share).tolist(), len(shared)]
    return list(pairwise(borders))


class _Builder(NamedTuple):
    """Makes items of runs of the sorted records; see `pack` for what the fields mean."""

    ids: Sequence[Ids]
    order: SortedRecords
    min_share: int
    prefix_lengths: Sequence[int] | None

    def shared(self, start: int, stop: int) -> Counts:
        """What each of a run shares with the one before it in the run."""
        return np.concatenate(([0], self.order.shared[start + 1 : stop]))

    def item(self, start: int, stop: int) -> _Item:
        """The records start..stop of the order."""
        records = self.order.records[start:stop]
        shared, chosen = self.shared(start, stop), [self.ids[i] for i in records]
        reusable: list[int] = []
        if self.prefix_lengths is None:
            forest = build_forest(chosen, shared, min_share=self.min_share)
        else:
            prefixes = [self.prefix_lengths[i] for i in records]
            forest, reusable = build_forest_with_prefixes(
                chosen, shared, prefixes, min_share=self.min_share
            )
        return _Item(sum(map(len, forest.pieces)), records, forest, reusable)


def _items(build: _Builder, start: int, stop: int, max_tokens: int) -> Iterator[_Item]:
    """The records start..stop of the order as items within the budget, as few as it takes."""
    item = build.item(start, stop)
    if item.num_tokens <= max_tokens or stop - start == 1:
        yield item
        return
    lengths = [len(build.ids[i]) for i in item.records]
    borders = _split_points(lengths, build.shared(start, stop).tolist(), max_tokens)
    if len(borders) == 2:
        borders = _even_points(lengths[0], len(lengths), item.num_tokens, max_tokens)
    for first, last in pairwise(borders):
        yield from _items(build, start + first, start + last, max_tokens)


def _split_points(lengths: Sequence[int], shared: Sequence[int], max_tokens: int) -> list[int]:
    """Borders of the parts into which a large group is split, each as full as the tokens that
    neighbours share suggest.

    A part may still exceed the budget, because short shared runs get no span; it is split again.
    """
    borders, total = [0], 0
    for place, (length, common) in enumerate(zip(lengths, shared, strict=True)):
        if place > borders[-1] and total + length - common > max_tokens:
            borders.append(place)
            total = 0
        total += length if place == borders[-1] else length - common
    return [*borders, len(lengths)]


def _even_points(first: int, count: int, num_tokens: int, max_tokens: int) -> list[int]:
    """Borders of equal parts of a group whose `num_tokens` are more than its neighbours' shared
    tokens suggest: as if each record behind the first, of `first` tokens, cost the same.

    No part has over seven eighths of the records, so that a group of thousands is not split
    thousands of times.
    """
    each = max(1.0, (num_tokens - first) / (count - 1))
    fitting = int((max_tokens - first) / each)
    size = min(fitting if fitting > 1 else count // 2, count * 7 // 8)
    return [*range(0, count, max(1, size)), count]


def _join(items: Sequence[_Item]) -> Pack:
    """The items' forests as one pack."""
    pieces: list[Ids] = []
    parents: list[int] = []
    leaves: list[int] = []
    reusable: list[int] = []
    for item in items:
        base = len(pieces)
        pieces += item.forest.pieces
        parents += [parent + base if parent >= 0 else -1 for parent in item.forest.parents]
        leaves += [leaf + base for leaf in item.forest.leaves]
        reusable += [node + base for node in item.reusable]
    records = np.concatenate([item.records for item in items])
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
