"""Labelled groups: candidates for one prompt, of which it is known how good they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb

import numpy as np

from polar_ray.evaluate.estimate import Estimate, Floats, Labels, bootstrap_ratio
from polar_ray.evaluate.preferences import outcomes
from polar_ray.scores import BATCHING_TOLERANCE


@dataclass(frozen=True, slots=True)
class BestOf:
    """Mean label of the best-scored of `n` candidates drawn at random, beside its bounds."""

    n: int
    chosen: float
    random: float
    best: float
    """What a perfect scorer would get from the same draws."""

    groups: int
    """Groups with at least `n` candidates, over which all three are averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Figures of labelled groups."""

    pairwise: Estimate
    """Pairs of one group with different labels in the right order; a tie counts half."""

    auc: float
    """That a row with a positive label scores above one without, whatever their groups.
    NaN unless both occur and labels are 0 and 1."""

    best_of: list[BestOf]
    groups: int
    rows: int
    unscored: int
    """Rows without a score; they are in no other figure."""

    tie_within: float
    """Scores that differ by no more than this are a tie."""


def ranking(
    scores: Floats, labels: Floats, groups: Labels, *, tie_within: float = BATCHING_TOLERANCE
) -> Ranking:
    """Figures of rows: scores float64 [rows] with NaN where there is none, labels of which more is
    better, and what names each row's group."""
    scored = np.isfinite(scores)
    scores, labels, groups = scores[scored], labels[scored], groups[scored]
    members = list(by_group(groups))
    won = [pair_outcomes(scores[rows], labels[rows], tie_within) for rows in members]
    return Ranking(
        pairwise=bootstrap_ratio(
            np.array([pairs.sum() for pairs in won]), np.array([float(len(pairs)) for pairs in won])
        ),
        auc=auc(scores, labels, tie_within),
        best_of=best_of_curve([(scores[rows], labels[rows]) for rows in members], tie_within),
        groups=len(members),
        rows=len(scores),
        unscored=int((~scored).sum()),
        tie_within=tie_within,
    )


def by_group(groups: Labels) -> Iterator[np.ndarray]:
    """The row numbers of each group."""
    if len(groups) == 0:
        return
    _, codes = np.unique(groups, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def spreads(scores: Floats, groups: Labels) -> Floats:
    """Standard deviation of each group with two scores or more: what GRPO has to learn from."""
    scored = np.isfinite(scores)
    scores = scores[scored]
    members = [rows for rows in by_group(groups[scored]) if len(rows) > 1]
    return np.array([scores[rows].std() for rows in members])


def pair_outcomes(scores: Floats, labels: Floats, tie_within: float) -> Floats:
    """1, 0 or one half for each pair of different labels."""
    better, worse = np.nonzero(labels[:, None] > labels[None, :])
    return outcomes(scores[better] - scores[worse], tie_within)


def auc(scores: Floats, labels: Floats, tie_within: float) -> float:
    """Area under the ROC curve of 0/1 labels, ties counted half."""
    if not np.isin(labels, (0, 1)).all():
        return np.nan
    positive, negative = scores[labels == 1], np.sort(scores[labels == 0])
    if len(positive) == 0 or len(negative) == 0:
        return np.nan
    below = np.searchsorted(negative, positive - tie_within, "left")
    not_above = np.searchsorted(negative, positive + tie_within, "right")
    return float((below + not_above).mean() / (2 * len(negative)))


def best_of_curve(members: list[tuple[Floats, Floats]], tie_within: float) -> list[BestOf]:
    """`BestOf` for 1, 2, 4, ... and the largest group's size, exact over all draws."""
    sizes = [len(scores) for scores, _ in members]
    curve = []
    for n in _steps(max(sizes, default=0)):
        fitting = [pair for pair, size in zip(members, sizes, strict=True) if size >= n]
        curve.append(
            BestOf(
                n,
                chosen=float(np.mean([best_of(s, labels, n, tie_within) for s, labels in fitting])),
                random=float(np.mean([labels.mean() for _, labels in fitting])),
                best=float(np.mean([best_of(labels, labels, n, 0) for _, labels in fitting])),
                groups=len(fitting),
            )
        )
    return curve


def best_of(scores: Floats, labels: Floats, n: int, tie_within: float) -> float:
    """The expected label of the best-scored of `n` candidates drawn without replacement; those that
    tie with the best of a draw share it.

    Sorted from the best on, candidate i is the first of those drawn in comb(below, n - 1) draws,
    where `below` come behind it. Of these, k tie with it. It and j of the k, drawn with it, win
    1 / (1 + j) each, and the sum of comb(k, j) * comb(below - k, n - 1 - j) / (1 + j) over all j is
    (comb(below + 1, n) - comb(below - k, n)) / (k + 1).
    """
    size = len(scores)
    order = np.argsort(-scores, kind="stable")
    ranked, worth = -scores[order], labels[order]
    ends = np.searchsorted(ranked, ranked + tie_within, "right")
    sums, draws, total = np.concatenate([[0.0], np.cumsum(worth)]), comb(size, n), 0.0
    for i, end in enumerate(ends.tolist()):
        below, k = size - 1 - i, end - 1 - i
        first = comb(below, n - 1) / draws
        alone = (comb(below + 1, n) - comb(below - k, n)) / ((k + 1) * draws)
        total += alone * worth[i]
        if k:
            total += (first - alone) * (sums[end] - sums[i + 1]) / k
    return float(total)


def _steps(largest: int) -> list[int]:
    powers = [1 << k for k in range(largest.bit_length()) if 1 << k <= largest]
    return sorted({*powers, largest} - {0})
