"""The trie: lossless, shares what is shared, and makes no span that does not pay."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.planning.trie import Forest, build_forest, common_prefix, sort_records

records = st.lists(
    st.lists(st.integers(0, 2), max_size=14).map(lambda ids: np.array(ids, dtype=np.int32)),
    max_size=14,
)
"""Few different ids, so that shared prefixes, duplicates and prefixes of others abound."""


def grown(ids: list[np.ndarray], min_share: int) -> tuple[list[np.ndarray], Forest]:
    order = sort_records(ids)
    chosen = [ids[i] for i in order.records]
    return chosen, build_forest(chosen, order.shared, min_share=min_share)


def path(forest: Forest, node: int) -> list[int]:
    """The tokens from the root to the end of a node."""
    ids: list[int] = []
    while node >= 0:
        ids = forest.pieces[node].tolist() + ids
        node = forest.parents[node]
    return ids


@given(records, st.integers(1, 5))
def test_every_record_can_be_read_off(ids: list[np.ndarray], min_share: int) -> None:
    chosen, forest = grown(ids, min_share)
    assert len(chosen) == sum(len(one) > 0 for one in ids)
    for record, leaf in zip(chosen, forest.leaves, strict=True):
        assert path(forest, leaf) == record.tolist()


@given(records)
def test_with_a_share_of_one_no_prefix_is_computed_twice(ids: list[np.ndarray]) -> None:
    _, forest = grown(ids, 1)
    prefixes = {tuple(one[:n].tolist()) for one in ids for n in range(1, len(one) + 1)}
    assert sum(map(len, forest.pieces)) == len(prefixes)


@given(records, st.integers(2, 5))
def test_inner_nodes_hold_at_least_the_minimum(ids: list[np.ndarray], min_share: int) -> None:
    _, forest = grown(ids, min_share)
    for parent in forest.parents:
        assert parent < 0 or len(forest.pieces[parent]) >= min_share or parent in forest.leaves


def test_equal_records_are_computed_once() -> None:
    one = np.arange(40, dtype=np.int32)
    _, forest = grown([one, one.copy(), one.copy()], 16)
    assert len(forest.pieces) == 1
    assert forest.leaves == [0, 0, 0]


def test_a_long_chain_of_prefixes_needs_no_recursion() -> None:
    ids = [np.zeros(n, dtype=np.int32) for n in range(1, 3000)]
    _, forest = grown(ids, 1)
    assert sum(map(len, forest.pieces)) == 2999


def test_records_with_different_salts_share_nothing() -> None:
    one = np.arange(40, dtype=np.int32)
    order = sort_records([one, one.copy(), one.copy()], salts=[0, 41, 0])
    assert sorted(order.shared.tolist()) == [0, 0, 40]


@given(st.lists(st.integers(0, 1), max_size=6), st.lists(st.integers(0, 1), max_size=6))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    expected = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    assert common_prefix(np.array(a, dtype=np.int32), np.array(b, dtype=np.int32)) == expected
