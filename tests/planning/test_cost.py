"""Costs against numbers computed by hand, for a shape small enough to do so."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.planning import build_pack, without_spans
from polar_ray.planning.cost import Cost, Shape, attended_pairs, cost, unshared

# Two query heads of 2 dimensions on one key/value head: q is 4 x 4, k and v 4 x 2, o 4 x 4, and
# the feed-forward three times 4 x 3.
SHAPE = Shape(
    hidden_size=4,
    intermediate_size=3,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
)


def tokens(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int32)


def test_operations_of_one_token_in_one_layer() -> None:
    assert SHAPE.kv_flops == 2 * (4 * 2 + 4 * 2)
    assert SHAPE.rest_flops == 2 * (4 * 4 + 4 * 4 + 3 * 4 * 3)
    assert SHAPE.pair_flops == 2 * 4 + 2 * 4


def test_a_single_token() -> None:
    # Three whole layers of 32 + 136, one pair in each, and a head of 4 multiply-adds.
    assert cost(SHAPE, build_pack([tokens(1)], [-1], [0])) == Cost(3 * 168 + 8, 3 * 16)


def test_a_record_alone() -> None:
    # 5 tokens in two whole layers; in the last, 5 keys and one end that sees 5 keys.
    expected = Cost(linear=2 * 5 * 168 + 5 * 32 + 136 + 8, attention=(2 * 15 + 5) * 16)
    assert cost(SHAPE, build_pack([tokens(5)], [-1], [0])) == expected
    assert unshared(SHAPE, [5]) == expected
    assert expected.flops == 1680 + 160 + 144 + 560


def test_two_records_behind_one_prefix() -> None:
    # 3 tokens of prefix (6 pairs), then 2 (3 * 2 + 3 pairs) and 1 (3 + 1 pairs): ends see 5 and 4.
    one = build_pack([tokens(3), tokens(2), tokens(1)], [-1, 0, 0], [1, 2])
    assert cost(SHAPE, one) == Cost(
        linear=2 * 6 * 168 + 6 * 32 + 2 * (136 + 8), attention=(2 * (6 + 9 + 4) + 5 + 4) * 16
    )
    assert unshared(SHAPE, [5, 4]) == Cost(
        linear=2 * 9 * 168 + 9 * 32 + 2 * (136 + 8), attention=(2 * (15 + 10) + 5 + 4) * 16
    )


def test_equal_records_share_a_span_and_pay_for_their_ends() -> None:
    one = build_pack([tokens(5)], [-1], [0, 0])
    alone = build_pack([tokens(5)], [-1], [0])
    assert cost(SHAPE, one).linear - cost(SHAPE, alone).linear == 136 + 8


def test_pairs_of_whole_blocks() -> None:
    # 5 rows in blocks of 2 see 2, 4 and 5 keys; behind 3 tokens each sees 3 more.
    alone = build_pack([tokens(5)], [-1], [0])
    behind = build_pack([tokens(3), tokens(5)], [-1, 0], [1])
    assert attended_pairs(alone, block=2) == 2 * 2 + 2 * 4 + 1 * 5
    assert attended_pairs(behind, block=2) == (2 * 2 + 3) + (4 + 8 + 5 + 15)
    assert attended_pairs(alone, block=256) == 25


def test_a_remembered_prefix_is_seen_but_not_computed() -> None:
    whole = build_pack([tokens(3), tokens(5)], [-1, 0], [1])
    rest = without_spans(whole, {0})
    assert attended_pairs(rest) == 5 * 3 + 15
    assert cost(SHAPE, rest).linear == 2 * 5 * 168 + 5 * 32 + 136 + 8
    assert cost(SHAPE, rest).attention == (2 * 30 + 8) * 16


def test_nothing_costs_nothing() -> None:
    assert unshared(SHAPE, []) == unshared(SHAPE, [0, 0]) == Cost(0, 0)


def test_costs_add_up() -> None:
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 12))
def test_blocks_add_less_than_their_own_triangle(sizes: list[int], block: int) -> None:
    one = build_pack([tokens(size) for size in sizes], [-1, *[0] * (len(sizes) - 1)], [0])
    causal, blocked = attended_pairs(one), attended_pairs(one, block=block)
    assert causal <= blocked <= causal + one.num_tokens * (block - 1) / 2
