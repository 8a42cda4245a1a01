"""Preference pairs: how often the chosen answer scores above the rejected one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polar_ray.evaluate.estimate import Estimate, Floats, Labels, wilson
from polar_ray.scores import BATCHING_TOLERANCE

LENGTH_BINS: tuple[tuple[str, float], ...] = (
    ("chosen is less than half as long", -0.5),
    ("chosen is shorter", -0.1),
    ("about the same length", 0.1),
    ("chosen is longer", 0.5),
    ("chosen is more than twice as long", np.inf),
)
"""Names, and the largest length difference of each, relative to the longer of the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """Figures of a set of preference pairs. Margins are chosen minus rejected, 0 of equal
    texts."""

    accuracy: Estimate
    """Pairs in the right order; a tie counts half."""

    ties: int
    """Pairs of equal texts, or whose scores differ by at most `tie_within`."""

    tie_within: float
    unscored: int
    """Pairs of which a side has no score; they are in no other figure."""

    by_category: dict[str, Estimate]
    by_length: dict[str, Estimate]
    prefers_longer: Estimate | None
    """Pairs of different length in which the longer one scores higher. Far from the share of
    pairs whose chosen one is longer: the scores go by length."""

    chosen_is_longer: Estimate | None
    margin_mean: float
    margin_quantiles: dict[str, float]


def preferences(
    chosen: Floats,
    rejected: Floats,
    *,
    same: npt.NDArray[np.bool_] | None = None,
    tie_within: float = BATCHING_TOLERANCE,
    categories: Sequence[str] | Labels | None = None,
    chosen_lengths: Floats | None = None,
    rejected_lengths: Floats | None = None,
) -> Preferences:
    """Figures of pairs: scores float64 [pairs], NaN where there is none; `same` bool [pairs], true
    of two equal texts, a tie whatever their scores; lengths in any unit, NaN where not known."""
    scored = np.isfinite(chosen) & np.isfinite(rejected)
    margins = chosen[scored] - rejected[scored]
    if same is not None:
        margins = np.where(same[scored], 0, margins)
    wins = outcomes(margins, tie_within)
    by_category: dict[str, Estimate] = {}
    if categories is not None:
        names = np.asarray(categories, dtype=object).astype(str)[scored]
        by_category = {str(name): wilson(wins[names == name]) for name in np.unique(names)}
    by_length: dict[str, Estimate] = {}
    prefers_longer = chosen_is_longer = None
    if chosen_lengths is not None and rejected_lengths is not None:
        difference = relative_difference(chosen_lengths[scored], rejected_lengths[scored])
        # NaN lies behind the last of them.
        bins = np.searchsorted([edge for _, edge in LENGTH_BINS], difference)
        by_length = {
            name: wilson(wins[bins == number]) for number, (name, _) in enumerate(LENGTH_BINS)
        }
        uneven = np.isfinite(difference) & (difference != 0)
        longer = outcomes(margins * np.sign(difference), tie_within)
        prefers_longer = wilson(longer[uneven])
        chosen_is_longer = wilson((difference[uneven] > 0).astype(float))
    return Preferences(
        accuracy=wilson(wins),
        ties=int((wins == 0.5).sum()),
        tie_within=tie_within,
        unscored=int((~scored).sum()),
        by_category=by_category,
        by_length=by_length,
        prefers_longer=prefers_longer,
        chosen_is_longer=chosen_is_longer,
        margin_mean=float(margins.mean()) if len(margins) else np.nan,
        margin_quantiles=quantiles(margins),
    )


def outcomes(margins: Floats, tie_within: float) -> Floats:
    """1 where positive, 0 where negative, one half for a tie."""
    wins: Floats = np.where(np.abs(margins) <= tie_within, 0.5, margins > 0)
    return wins


def relative_difference(one: Floats, other: Floats) -> Floats:
    """(one - other) / max(one, other), within -1..1; 0 where both are 0."""
    longer = np.maximum(one, other)
    difference: Floats = (one - other) / np.where(longer == 0, 1, longer)
    return difference


def quantiles(values: Floats) -> dict[str, float]:
    """The 5, 25, 50, 75 and 95 % quantiles, or none of no values."""
    if len(values) == 0:
        return {}
    shares = (5, 25, 50, 75, 95)
    found = np.percentile(values, shares)
    return {f"{share}%": float(value) for share, value in zip(shares, found, strict=True)}
