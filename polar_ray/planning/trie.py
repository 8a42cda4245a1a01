"""A compressed trie over the token ids of a batch: what records have in common is one node.

Records are compared by token id, never by string, so any two that begin alike share, whether or not
they were declared a group. Knows nothing of budgets; `planning.pack` decides what goes together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]


class Order(NamedTuple):
    """Records so sorted that those which begin alike stand together."""

    records: Counts
    """int64 [R], the caller's record numbers; empty records are left out."""

    shared: Counts
    """int64 [R], leading tokens that each has in common with the one before it; 0 for the first."""


class Forest(NamedTuple):
    """Nodes of a trie, parents before children."""

    pieces: list[Ids]
    """Each node's own tokens."""

    parents: list[int]
    """Each node's parent, -1 for a root."""

    leaves: list[int]
    """For each record, in the order given, the node at whose last token it ends."""


def sort_records(ids: Sequence[Ids], kinds: Sequence[int] | None = None) -> Order:
    """The lexicographic order of the records, and what neighbours share.

    Records of different `kinds` share nothing, however alike they begin.
    """
    filled = [i for i, one in enumerate(ids) if len(one)]
    # Bytes compare as big-endian ids do, at the speed of memcmp.
    keys = {i: (kinds[i] if kinds else 0, ids[i].astype(">u4").tobytes()) for i in filled}
    filled.sort(key=keys.__getitem__)
    shared = np.zeros(len(filled), dtype=np.int64)
    for place in range(1, len(filled)):
        one, other = filled[place - 1], filled[place]
        if keys[one][0] == keys[other][0]:
            shared[place] = common_prefix(ids[one], ids[other])
    return Order(np.array(filled, dtype=np.int64), shared)


def common_prefix(one: Ids, other: Ids) -> int:
    """How many leading ids are equal."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


def grow(ids: Sequence[Ids], shared: Counts, *, min_share: int) -> Forest:
    """The forest of sorted records; `shared[i]` is what record i has in common with i - 1.

    A node is made where at least `min_share` further tokens are shared: shorter runs are cheaper
    to compute again than to attend to apart.
    """
    forest = Forest([], [], [0] * len(ids))
    open_parts = [(0, len(ids), 0, -1)] if len(ids) else []
    while open_parts:
        start, stop, depth, parent = open_parts.pop()
        for first, last in _siblings(shared, start, stop, depth + min_share):
            # What the first and last of a sorted run share, all between them share.
            reach = len(ids[first]) if last - first == 1 else int(shared[first + 1 : last].min())
            node = len(forest.pieces)
            forest.pieces.append(ids[first][depth:reach])
            forest.parents.append(parent)
            inner = first
            while inner < last and len(ids[inner]) == reach:
                forest.leaves[inner] = node
                inner += 1
            if inner < last:
                open_parts.append((inner, last, reach, node))
    return forest


def grow_from_stems(
    ids: Sequence[Ids], shared: Counts, stems: Sequence[int], *, min_share: int
) -> tuple[Forest, list[int]]:
    """`grow`, with nodes that end where the records' stems end; and those nodes, parents first.

    `stems[i]` are leading tokens of record i. A stem is a record that nobody asks to score: it
    stands before the first that begins with it, and leaves its node behind. One that would need a
    node of less than `min_share` tokens gets none, nor does one at whose end a record ends, nor one
    that the record before begins with, under a longer or shorter stem of its own.
    """
    rows: list[Ids] = []
    common: list[int] = []
    asked: list[int] = []
    for one, same, size in zip(ids, shared.tolist(), stems, strict=True):
        if same < size:
            rows.append(one[:size])
            common.append(same)
            same = size
        asked.append(len(rows))
        rows.append(one)
        common.append(same)
    forest = grow(rows, np.array(common, dtype=np.int64), min_share=min_share)
    leaves = [forest.leaves[row] for row in asked]
    ends = set(leaves)
    inner = {parent for parent in forest.parents if parent >= 0}
    wanted = {forest.leaves[row] for row in set(range(len(rows))) - set(asked)}
    # A stem's node without a continuation is a stem that was too short to be shared.
    kept = [node for node in range(len(forest.pieces)) if node in inner or node in ends]
    number = {node: place for place, node in enumerate(kept)}
    number[-1] = -1
    return (
        Forest(
            [forest.pieces[node] for node in kept],
            [number[forest.parents[node]] for node in kept],
            [number[leaf] for leaf in leaves],
        ),
        [number[node] for node in kept if node in (wanted & inner) - ends],
    )


def _siblings(shared: Counts, start: int, stop: int, enough: int) -> list[tuple[int, int]]:
    """Runs of neighbours within start..stop that share at least `enough` tokens."""
    cuts = np.flatnonzero(shared[start + 1 : stop] < enough) + start + 1
    borders = [start, *cuts.tolist(), stop]
    return list(pairwise(borders))
