"""Labelled groups: candidates for one prompt, of which it is known how good they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb

import numpy as np

from polar_ray.evaluate.estimate import Estimate, Floats, Labels, bootstrap_ratio
from polar_ray.evaluate.preferences import outcomes


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


def ranking(scores: Floats, labels: Floats, groups: Labels) -> Ranking:
    """Figures of rows: scores float64 [rows] with NaN where there is none, labels of which more is
    better, and what names each row's group."""
    scored = np.isfinite(scores)
    scores, labels, groups = scores[scored], labels[scored], groups[scored]
    members = list(by_group(groups))
    won = [pair_outcomes(scores[rows], labels[rows]) for rows in members]
    return Ranking(
        pairwise=bootstrap_ratio(
            np.array([pairs.sum() for pairs in won]), np.array([float(len(pairs)) for pairs in won])
        ),
        auc=auc(scores, labels),
        best_of=best_of_curve([(scores[rows], labels[rows]) for rows in members]),
        groups=len(members),
        rows=len(scores),
        unscored=int((~scored).sum()),
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


def pair_outcomes(scores: Floats, labels: Floats) -> Floats:
    """1, 0 or one half for each pair of different labels."""
    better, worse = np.nonzero(labels[:, None] > labels[None, :])
    return outcomes(scores[better] - scores[worse])


def auc(scores: Floats, labels: Floats) -> float:
    """Area under the ROC curve of 0/1 labels, ties counted half."""
    if not np.isin(labels, (0, 1)).all():
        return np.nan
    positive = labels == 1
    p, n = int(positive.sum()), int((~positive).sum())
    if p == 0 or n == 0:
        return np.nan
    above = midranks(scores)[positive].sum() - p * (p + 1) / 2
    return float(above / (p * n))


def midranks(values: Floats) -> Floats:
    """Ranks from 1 on; equal values share the mean of theirs."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[codes]
    return ranks


def best_of_curve(members: list[tuple[Floats, Floats]]) -> list[BestOf]:
    """`BestOf` for 1, 2, 4, ... and the largest group's size, exact over all draws."""
    sizes = [len(scores) for scores, _ in members]
    curve = []
    for n in _steps(max(sizes, default=0)):
        fitting = [pair for pair, size in zip(members, sizes, strict=True) if size >= n]
        curve.append(
            BestOf(
                n,
                chosen=float(np.mean([best_of(scores, labels, n) for scores, labels in fitting])),
                random=float(np.mean([labels.mean() for _, labels in fitting])),
                best=float(np.mean([best_of(labels, labels, n) for _, labels in fitting])),
                groups=len(fitting),
            )
        )
    return curve


def best_of(scores: Floats, labels: Floats, n: int) -> float:
    """The expected label of the best-scored of `n` candidates drawn without replacement.

    The i-th best of G (from 0) wins comb(G - 1 - i, n - 1) of comb(G, n) draws; candidates with
    equal scores share what they win.
    """
    size = len(scores)
    order = np.argsort(-scores, kind="stable")
    _, codes = np.unique(-scores[order], return_inverse=True)
    shared = np.bincount(codes, labels[order]) / np.bincount(codes)
    wins = np.array([comb(size - 1 - i, n - 1) / comb(size, n) for i in range(size)])
    return float(shared[codes] @ wins)


def _steps(largest: int) -> list[int]:
    powers = [1 << k for k in range(largest.bit_length()) if 1 << k <= largest]
    return sorted({*powers, largest} - {0})
