"""Packs: every token once, none over budget, positions and spans as the records have them."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.planning import Pack, build_pack, pack

sizes = st.lists(st.integers(0, 50), max_size=60)


def records_of(lengths: list[int]) -> list[np.ndarray]:
    """Records whose ids tell which record and which place they come from."""
    return [np.arange(n, dtype=np.int32) + 1000 * i for i, n in enumerate(lengths)]


def path_ids(one: Pack, record: int) -> list[int]:
    """The ids that the record's last token sees, root first."""
    span = next(s for s in one.spans if s.stop == one.ends[record] + 1)
    ids = one.ids[span.start : span.stop].tolist()
    while span.parent >= 0:
        span = one.spans[span.parent]
        ids = one.ids[span.start : span.stop].tolist() + ids
    return ids


@given(sizes, st.integers(1, 80))
def test_every_record_stands_in_exactly_one_pack(lengths: list[int], budget: int) -> None:
    records = records_of(lengths)
    packs = list(pack(records, max_tokens=budget))
    placed = np.concatenate([p.records for p in packs]) if packs else np.empty(0)
    assert sorted(placed.tolist()) == [i for i, n in enumerate(lengths) if n]
    for one in packs:
        for place, record in enumerate(one.records):
            assert path_ids(one, place) == records[record].tolist()


@given(sizes, st.integers(1, 80))
def test_no_pack_is_over_budget_unless_it_is_one_record(lengths: list[int], budget: int) -> None:
    for one in pack(records_of(lengths), max_tokens=budget):
        assert one.num_tokens <= budget or len(one.records) == 1


@given(sizes, st.integers(1, 80))
def test_packs_are_as_full_as_their_next_record_allows(lengths: list[int], budget: int) -> None:
    packs = list(pack(records_of(lengths), max_tokens=budget))
    for one, following in itertools.pairwise(packs):
        first = lengths[following.records[0]]
        assert one.num_tokens + first > budget


@given(sizes)
def test_positions_and_lengths_are_those_of_each_record(lengths: list[int]) -> None:
    for one in pack(records_of(lengths), max_tokens=10**6):
        for span in one.spans:
            size = span.stop - span.start
            assert one.positions[span.start : span.stop].tolist() == list(range(size))
            assert one.lengths[span.start : span.stop].tolist() == [size] * size


def test_a_forest_of_shared_spans() -> None:
    pieces = [np.array(ids, dtype=np.int32) for ids in ([1, 2, 3], [4], [5, 6], [7])]
    one = build_pack(pieces, [-1, 0, 0, 2], [1, 2, 3])
    assert one.spans == ((0, 3, -1), (3, 4, 0), (4, 6, 0), (6, 7, 2))
    assert one.positions.tolist() == [0, 1, 2, 3, 3, 4, 5]
    assert one.lengths.tolist() == [6, 6, 6, 4, 6, 6, 6]
    assert one.ends.tolist() == [3, 5, 6]
    assert [path_ids(one, r) for r in range(3)] == [
        [1, 2, 3, 4],
        [1, 2, 3, 5, 6],
        [1, 2, 3, 5, 6, 7],
    ]
