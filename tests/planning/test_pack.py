"""Packs: every record once, shared prefixes once, none over budget, positions as records have."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.planning import Pack, build_pack, pack

records = st.lists(
    st.builds(
        lambda base, cut, own: np.array([*([base] * cut), *own], dtype=np.int32),
        st.integers(0, 3),
        st.integers(0, 30),
        st.lists(st.integers(0, 3), max_size=8),
    ),
    max_size=30,
)
budgets = st.integers(1, 90)
shares = st.integers(1, 6)


def line_of(one: Pack, record: int) -> tuple[list[int], list[int]]:
    """The ids that a record's last token sees, root first, and their positions."""
    span = next(s for s in one.spans if s.stop == one.ends[record] + 1)
    line = [span]
    while line[0].parent >= 0:
        line.insert(0, one.spans[line[0].parent])
    tokens = [token for span in line for token in range(span.start, span.stop)]
    return one.ids[tokens].tolist(), one.positions[tokens].tolist()


@given(records, budgets, shares)
def test_every_record_stands_in_exactly_one_pack(
    ids: list[np.ndarray], budget: int, share: int
) -> None:
    placed: list[int] = []
    for one in pack(ids, max_tokens=budget, min_share=share):
        placed += one.records.tolist()
        for place, record in enumerate(one.records):
            tokens, positions = line_of(one, place)
            assert tokens == ids[record].tolist()
            assert positions == list(range(len(tokens)))
    assert sorted(placed) == [i for i, record in enumerate(ids) if len(record)]


@given(records, budgets, shares)
def test_no_pack_is_over_budget_unless_it_is_one_record(
    ids: list[np.ndarray], budget: int, share: int
) -> None:
    for one in pack(ids, max_tokens=budget, min_share=share):
        assert one.num_tokens <= budget or len({ids[i].tobytes() for i in one.records}) == 1


@given(records, shares)
def test_sharing_never_computes_more_than_the_records_hold(
    ids: list[np.ndarray], share: int
) -> None:
    packs = list(pack(ids, max_tokens=10**6, min_share=share))
    assert sum(one.num_tokens for one in packs) <= sum(map(len, ids))
    assert len(packs) <= 1


def test_a_group_computes_its_prefix_once() -> None:
    prefix = np.arange(100, dtype=np.int32)
    ids = [np.concatenate([prefix, np.full(10, 200 + i, dtype=np.int32)]) for i in range(16)]
    [one] = pack(ids, max_tokens=10_000)
    assert one.num_tokens == 100 + 16 * 10
    assert one.lengths.tolist() == [110] * one.num_tokens


def test_a_group_over_the_budget_repeats_its_prefix() -> None:
    prefix = np.arange(100, dtype=np.int32)
    ids = [np.concatenate([prefix, np.full(50, 200 + i, dtype=np.int32)]) for i in range(16)]
    packs = list(pack(ids, max_tokens=500))
    assert [one.num_tokens for one in packs] == [500, 500]
    assert sorted(i for one in packs for i in one.records.tolist()) == list(range(16))


def test_groups_stay_whole_while_they_fit() -> None:
    ids = [np.full(20 + i % 4, i // 4, dtype=np.int32) for i in range(32)]
    for one in pack(ids, max_tokens=60):
        groups = [i // 4 for i in one.records]
        assert all(groups.count(group) == 4 for group in groups)


def test_records_of_different_kinds_stand_apart() -> None:
    ids = [np.zeros(40, dtype=np.int32)] * 3
    [one] = pack(ids, max_tokens=1000, salts=[0, 1, 0])
    assert one.num_tokens == 80


def test_a_forest_of_shared_spans() -> None:
    pieces = [np.array(ids, dtype=np.int32) for ids in ([1, 2, 3], [4], [5, 6], [7])]
    one = build_pack(pieces, [-1, 0, 0, 2], [1, 2, 3])
    assert one.spans == ((0, 3, -1), (3, 4, 0), (4, 6, 0), (6, 7, 2))
    assert one.positions.tolist() == [0, 1, 2, 3, 3, 4, 5]
    assert one.lengths.tolist() == [6, 6, 6, 4, 6, 6, 6]
    assert one.ends.tolist() == [3, 5, 6]
    assert [line_of(one, r)[0] for r in range(3)] == [
        [1, 2, 3, 4],
        [1, 2, 3, 5, 6],
        [1, 2, 3, 5, 6, 7],
    ]


def test_thousands_that_share_less_than_it_seems_are_split_a_few_times() -> None:
    """Neighbours share all but a token, in runs too short for a span: what they share suggests that
    a pack holds them, and it does not."""
    prefix = list(range(100, 140))
    ids = [np.array([*prefix, *divmod(n, 80), 7, 8], np.int32) for n in range(6000)]
    packs = list(pack(ids, max_tokens=16384))
    assert sorted(np.concatenate([each.records for each in packs]).tolist()) == list(range(6000))
    assert max(each.num_tokens for each in packs) <= 16384
    whole = next(pack(ids, max_tokens=1 << 30)).num_tokens
    assert whole > 16384
    assert sum(each.num_tokens for each in packs) <= 1.05 * whole
