"""A compressed trie over the token ids of a batch: a prefix that records share is one node.

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


class SortedRecords(NamedTuple):
    """Records in the lexicographic order of their ids: those that begin alike are neighbours."""

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


def sort_records(ids: Sequence[Ids], salts: Sequence[int] | None = None) -> SortedRecords:
    """The lexicographic order of the records, and how many tokens neighbours share.

    Records with different `salts` share nothing, even where their ids are equal.
    """
    filled = [i for i, record in enumerate(ids) if len(record)]
    # Bytes compare as big-endian ids do, at the speed of memcmp.
    keys = {i: (salts[i] if salts else 0, ids[i].astype(">u4").tobytes()) for i in filled}
    filled.sort(key=keys.__getitem__)
    shared = np.zeros(len(filled), dtype=np.int64)
    for place in range(1, len(filled)):
        left, right = filled[place - 1], filled[place]
        if keys[left][0] == keys[right][0]:
            shared[place] = common_prefix(ids[left], ids[right])
    return SortedRecords(np.array(filled, dtype=np.int64), shared)


def common_prefix(left: Ids, right: Ids) -> int:
    """How many leading ids are equal."""
    length = min(len(left), len(right))
    differs = left[:length] != right[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


def build_forest(ids: Sequence[Ids], shared: Counts, *, min_share: int) -> Forest:
    """The trie of sorted records; `shared[i]` leading tokens of record i are also those of i - 1.

    A shared prefix becomes a node only if it adds at least `min_share` tokens to its parent: a
    shorter one is cheaper to compute again than to attend to as a span of its own.
    """
    forest = Forest([], [], [0] * len(ids))
    pending = [(0, len(ids), 0, -1)] if len(ids) else []
    while pending:
        start, stop, depth, parent = pending.pop()
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
                pending.append((inner, last, reach, node))
    return forest


def build_forest_with_prefixes(
    ids: Sequence[Ids], shared: Counts, prefix_lengths: Sequence[int], *, min_share: int
) -> tuple[Forest, list[int]]:
    """`build_forest` with a node that ends where each record's cacheable prefix ends; and the
    numbers of those nodes, parents first.

    The first `prefix_lengths[i]` tokens of record i are its cacheable prefix. To get a node, each
    new prefix is added as a record that nobody scores. There is none for a prefix that would need
    a node of less than `min_share` tokens, at whose end a record ends, or with which the record
    before begins, having a longer or shorter cacheable prefix of its own.
    """
    rows: list[Ids] = []
    common: list[int] = []
    asked: list[int] = []
    for record, same, size in zip(ids, shared.tolist(), prefix_lengths, strict=True):
        if same < size:
            rows.append(record[:size])
            common.append(same)
            same = size
        asked.append(len(rows))
        rows.append(record)
        common.append(same)
    forest = build_forest(rows, np.array(common, dtype=np.int64), min_share=min_share)
    leaves = [forest.leaves[row] for row in asked]
    ends = set(leaves)
    inner = {parent for parent in forest.parents if parent >= 0}
    wanted = {forest.leaves[row] for row in set(range(len(rows))) - set(asked)}
    # A prefix that no node continues was too short to be shared.
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
