"""Two scorings of the same rows: other engines, other precisions, other models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from polar_ray.evaluate.estimate import Estimate, Floats, Labels, wilson
from polar_ray.evaluate.groups import by_group
from polar_ray.scores import BATCHING_TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Figures of two score columns. Correlations are NaN where one of them is constant."""

    rows: int
    unscored: int
    """Rows that lack one of the two scores; they are in no other figure."""

    pearson: float
    spearman: float
    kendall: float
    """Tau-b."""

    mean_abs_difference: float
    max_abs_difference: float
    top1: Estimate | None
    """Groups in which both put the same row first; None without groups of two or more."""

    spearman_in_groups: float
    """Mean over the groups where it is defined; NaN without any."""

    tie_within: float
    """Rows that are so close to a group's first are first with it; scores that are all so close
    have no order."""


def agreement(
    one: Floats,
    other: Floats,
    groups: Labels | None = None,
    *,
    tie_within: float = BATCHING_TOLERANCE,
) -> Agreement:
    """Figures of two scorings, float64 [rows], NaN where there is no score."""
    both = np.isfinite(one) & np.isfinite(other)
    unscored = int((~both).sum())
    one, other = one[both], other[both]
    members = [] if groups is None else [rows for rows in by_group(groups[both]) if len(rows) > 1]
    inner = [_spearman(one[rows], other[rows], tie_within) for rows in members]
    inner = [value for value in inner if np.isfinite(value)]
    same = [same_first(one[rows], other[rows], tie_within) for rows in members]
    gaps = np.abs(one - other)
    varied = _varied(one, other, tie_within)
    return Agreement(
        rows=len(one),
        unscored=unscored,
        pearson=float(stats.pearsonr(one, other).statistic) if varied else np.nan,
        spearman=_spearman(one, other, tie_within),
        kendall=float(stats.kendalltau(one, other).statistic) if varied else np.nan,
        mean_abs_difference=float(gaps.mean()) if len(gaps) else np.nan,
        max_abs_difference=float(gaps.max()) if len(gaps) else np.nan,
        top1=wilson(np.array(same, dtype=float)) if members else None,
        spearman_in_groups=float(np.mean(inner)) if inner else np.nan,
        tie_within=tie_within,
    )


def same_first(one: Floats, other: Floats, tie_within: float) -> bool:
    """Whether a row is best in both; rows that share the first place are all best."""
    first, also = (scores >= scores.max() - tie_within for scores in (one, other))
    return bool((first & also).any())


def _spearman(one: Floats, other: Floats, tie_within: float) -> float:
    if not _varied(one, other, tie_within):
        return np.nan
    return float(stats.spearmanr(one, other).statistic)


def _varied(one: Floats, other: Floats, tie_within: float) -> bool:
    """scipy warns, and says NaN, where a column is constant."""
    return len(one) > 1 and bool(np.ptp(one) > tie_within and np.ptp(other) > tie_within)
