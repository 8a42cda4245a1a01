"""Preferences, rankings and agreement: by hand, and against scipy."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from polar_ray.evaluate import agreement, preferences, ranking
from polar_ray.evaluate.agreement import same_first
from polar_ray.evaluate.estimate import bootstrap_ratio, wilson
from polar_ray.evaluate.groups import auc, best_of, by_group, pair_outcomes

nan = np.nan
few = st.integers(-3, 3).map(float)  # ties are wanted


def test_preferences_by_hand() -> None:
    found = preferences(
        np.array([1.0, 0.0, 2.0, nan, 3.0]),
        np.array([0.0, 0.0, 3.0, 1.0, -1.0]),
        categories=["a", "a", "b", "b", "b"],
        chosen_lengths=np.array([10.0, 10, 1, 5, 30]),
        rejected_lengths=np.array([10.0, 9, 10, 5, 10]),
    )
    assert found.accuracy.value == pytest.approx(2.5 / 4)
    assert (found.accuracy.count, found.ties, found.unscored) == (4, 1, 1)
    assert {name: (e.value, e.count) for name, e in found.by_category.items()} == {
        "a": (0.75, 2),
        "b": (0.5, 2),
    }
    assert [(e.value, e.count) for e in found.by_length.values() if e.count] == [
        (0.0, 1),  # 1 against 10
        (0.75, 2),  # 10 against 10, and 10 against 9: a difference of a tenth at most
        (1.0, 1),  # 30 against 10
    ]
    assert found.prefers_longer is not None
    assert (found.prefers_longer.value, found.prefers_longer.count) == (2.5 / 3, 3)
    assert found.chosen_is_longer is not None
    assert found.chosen_is_longer.value == pytest.approx(2 / 3)
    assert found.margin_mean == pytest.approx(1.0)
    assert found.margin_quantiles["50%"] == 0.5


def test_what_batching_moves_is_a_tie_and_so_are_equal_texts() -> None:
    found = preferences(
        np.array([1.0, 1.0 + 1e-6, 1.0, 2.0, 1.0]),
        np.array([1.0 + 1e-6, 1.0, 1.0 + 3e-5, 1.0, nan]),
        same=np.array([False, False, False, True, True]),
        chosen_lengths=np.array([1.0, 1, 1, 1, 1]),
        rejected_lengths=np.array([2.0, 2, 2, 1, 1]),
    )
    assert (found.ties, found.tie_within) == (3, 1e-5)
    assert found.accuracy.value == pytest.approx((0.5 + 0.5 + 0 + 0.5) / 4)
    assert found.prefers_longer is not None
    assert found.prefers_longer.value == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert found.margin_quantiles["95%"] < 1e-5, "but for the two equal texts, all are close"
    exact = preferences(np.array([1.0]), np.array([1.0 + 1e-6]), tie_within=0)
    assert (exact.accuracy.value, exact.ties) == (0.0, 0)


def test_a_length_that_nobody_knows_is_in_no_figure_of_lengths() -> None:
    found = preferences(
        np.array([1.0, 1.0]),
        np.array([0.0, 0.0]),
        chosen_lengths=np.array([nan, 9.0]),
        rejected_lengths=np.array([9.0, 3.0]),
    )
    assert sum(value.count for value in found.by_length.values()) == 1
    assert found.prefers_longer is not None
    assert found.prefers_longer.count == 1


def test_no_pairs_are_no_figures() -> None:
    found = preferences(np.array([nan]), np.array([1.0]))
    assert np.isnan(found.accuracy.value)
    assert (found.accuracy.count, found.unscored, found.margin_quantiles) == (0, 1, {})


@given(st.integers(0, 40), st.integers(1, 40))
def test_wilson_is_scipys(wins: int, more: int) -> None:
    n = wins + more
    found = wilson(np.array([1.0] * wins + [0.0] * more))
    expected = stats.binomtest(wins, n).proportion_ci(method="wilson")
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)
    assert found.low <= found.value <= found.high


def test_a_bootstrap_is_wide_where_groups_differ_and_nothing_where_they_do_not() -> None:
    even = bootstrap_ratio(np.full(50, 3.0), np.full(50, 4.0))
    assert (even.value, even.low, even.high, even.count) == (0.75, 0.75, 0.75, 200)
    split = bootstrap_ratio(np.array([4.0, 0.0] * 25), np.full(50, 4.0))
    assert split.value == 0.5
    # 200 independent outcomes would be within 0.07; 50 clusters of four alike are not.
    assert 0.1 < split.high - split.value < 0.2


def test_ranking_by_hand() -> None:
    found = ranking(
        np.array([3.0, 1.0, 2.0, 5.0, 5.0, nan]),
        np.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0]),
        np.array(["x", "x", "x", "y", "y", "y"]),
    )
    assert found.pairwise.value == pytest.approx(2.5 / 3)
    assert (found.groups, found.rows, found.unscored) == (2, 5, 1)
    # positives 3 and 5 against 1, 2, 5: 2 + 2.5 of 6
    assert found.auc == pytest.approx(4.5 / 6)
    one, two, three = found.best_of
    assert one.chosen == pytest.approx(one.random) == pytest.approx((1 / 3 + 1 / 2) / 2)
    # x: the right one wins 2 of 3 draws; y: a tie
    assert two.chosen == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert two.best == pytest.approx((2 / 3 + 1) / 2)
    assert (three.n, three.groups, three.chosen) == (3, 1, 1.0)


@given(st.lists(st.tuples(few, st.booleans()), min_size=1, max_size=30))
def test_auc_is_mann_whitneys(rows: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in rows])
    labels = np.array([float(label) for _, label in rows])
    positive, negative = scores[labels == 1], scores[labels == 0]
    if len(positive) == 0 or len(negative) == 0:
        assert np.isnan(auc(scores, labels, 0))
        return
    u = stats.mannwhitneyu(positive, negative).statistic
    assert auc(scores, labels, 0) == pytest.approx(u / len(positive) / len(negative))
    assert pair_outcomes(scores, labels, 0).mean() == pytest.approx(auc(scores, labels, 0))


@given(st.lists(st.tuples(few, st.booleans()), min_size=1, max_size=30), st.integers(0, 2))
def test_auc_counts_half_what_is_a_tie(rows: list[tuple[float, bool]], tie_within: int) -> None:
    scores = np.array([score for score, _ in rows])
    labels = np.array([float(label) for _, label in rows])
    pairs = pair_outcomes(scores, labels, tie_within)
    if len(pairs):
        assert pairs.mean() == pytest.approx(auc(scores, labels, tie_within))


@given(st.lists(st.tuples(few, few), min_size=1, max_size=7), st.integers(0, 2), st.data())
def test_best_of_is_the_mean_over_all_draws(
    rows: list[tuple[float, float]], tie_within: int, data: st.DataObject
) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    n = data.draw(st.integers(1, len(rows)))
    means = []
    for draw in combinations(range(len(rows)), n):
        best = [i for i in draw if scores[i] >= max(scores[j] for j in draw) - tie_within]
        means.append(np.mean([labels[i] for i in best]))
    assert best_of(scores, labels, n, tie_within) == pytest.approx(np.mean(means))


def test_what_batching_moves_ranks_nobody() -> None:
    """The same candidates, packed in another order: every figure stays."""
    labels, groups = np.array([1.0, 0, 1, 0, 0]), np.array([0, 0, 0, 1, 1])
    scores = np.array([1.0, 1.0, 0.0, 2.0, 3.0])
    moved = scores + np.array([-1e-6, 1e-6, 0, 0, 1e-6])
    one, other = ranking(scores, labels, groups), ranking(moved, labels, groups)
    assert (one.pairwise, one.auc) == (other.pairwise, other.auc)
    for before, after in zip(one.best_of, other.best_of, strict=True):
        assert after.chosen == pytest.approx(before.chosen)
    assert one.tie_within == 1e-5
    assert ranking(moved, labels, groups, tie_within=0).auc != one.auc
    assert same_first(scores[:2], moved[:2], 1e-5)
    found = agreement(scores, moved, np.array([0, 0, 1, 1, 1]))
    assert found.top1 is not None
    assert found.top1.value == 1.0
    assert found.spearman_in_groups == pytest.approx(1.0), "of the group that has an order"


@given(st.lists(st.sampled_from("abc"), max_size=20))
def test_every_row_is_in_the_one_group_of_its_name(names: list[str]) -> None:
    groups = np.array(names)
    parts = list(by_group(groups))
    assert sorted(int(i) for rows in parts for i in rows) == list(range(len(names)))
    assert [set(groups[rows]) for rows in parts] == [{name} for name in sorted(set(names))]


def test_agreement_by_hand() -> None:
    found = agreement(
        np.array([1.0, 2.0, 3.0, 4.0, nan]),
        np.array([1.0, 2.5, 2.0, 5.0, 0.0]),
        np.array([0, 0, 1, 1, 1]),
    )
    assert (found.rows, found.unscored) == (4, 1)
    assert found.max_abs_difference == 1.0
    assert found.mean_abs_difference == pytest.approx(2.5 / 4)
    assert found.kendall == pytest.approx(4 / 6)
    assert found.spearman == pytest.approx(0.8)
    assert found.top1 is not None
    assert (found.top1.value, found.top1.count) == (1.0, 2)
    assert found.spearman_in_groups == pytest.approx(1.0)


@given(st.lists(few, min_size=2, max_size=20))
def test_a_scoring_agrees_with_itself_and_with_what_grows_with_it(values: list[float]) -> None:
    one = np.array(values)
    other = np.exp(one)
    found = agreement(one, other)
    if np.ptp(one) == 0:
        assert np.isnan([found.pearson, found.spearman, found.kendall]).all()
    else:
        assert found.spearman == pytest.approx(1.0)
        assert found.kendall == pytest.approx(1.0)
    assert same_first(one, other, 0)
    assert found.top1 is None
