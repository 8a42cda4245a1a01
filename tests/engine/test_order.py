"""Which records of a pack go ahead of which."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.engine.order import order_records
from polar_ray.engine.sglang.child import join_records, split_records
from polar_ray.planning import build_pack, pack


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


def test_the_first_of_each_prefix_goes_ahead() -> None:
    #   1 2 --- 3 --- 4, 5     (records 0 and 1; 2 ends at the 3)
    #       --- 6, 6           (records 3 and 4 are equal)
    #   7                      (record 5)
    pieces = [ids(1, 2), ids(3), ids(4), ids(5), ids(6), ids(7)]
    made = build_pack(pieces, [-1, 0, 1, 1, 0, -1], [2, 3, 1, 4, 4, 5])
    order = order_records(made)
    assert [row.tolist() for row in order.records] == [
        [1, 2, 3],
        [1, 2, 3, 4],
        [1, 2, 3, 5],
        [1, 2, 6],
        [7],
    ]
    assert order.after == [-1, 0, 0, 0, -1]
    assert order.places.tolist() == [1, 2, 0, 3, 3, 4]


def test_within_a_prefix_the_deepest_leader_is_waited_for() -> None:
    pieces = [ids(1), ids(2), ids(3), ids(4), ids(5), ids(6)]
    made = build_pack(pieces, [-1, 0, 1, 1, 0, 4], [2, 3, 5])
    assert order_records(made).after == [-1, 0, 0]
    made = build_pack([*pieces, ids(7)], [-1, 0, 1, 1, 0, 4, 4], [2, 3, 5, 6])
    assert order_records(made).after == [-1, 0, 0, 2]


@given(st.lists(st.lists(st.integers(5, 7), min_size=1, max_size=8), min_size=1, max_size=12))
def test_every_record_is_there_whole_and_waits_for_an_earlier_one(rows: list[list[int]]) -> None:
    for packed in pack([ids(*row) for row in rows], max_tokens=20, min_share=1):
        order = order_records(packed)
        sent = [row.tolist() for row in order.records]
        found = [sent[place] for place in order.places]
        assert found == [rows[number] for number in packed.records]
        assert all(leader < number for number, leader in enumerate(order.after))
        assert split_records(join_records(sent, order.after)) == (sent, order.after)
