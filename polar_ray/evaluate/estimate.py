"""A share with its 95 % confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[Any]
"""Numbers or strings, one per row."""

Z_95 = 1.959963984540054
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """`value` from `count` observations; the interval covers the truth 95 times in 100."""

    value: float
    low: float
    high: float
    count: int


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)
"""Of no observations."""


def wilson(outcomes: Floats) -> Estimate:
    """The mean of independent outcomes in [0, 1], with Wilson's score interval.

    Outcomes of one half (ties) make it a little too wide, never too narrow: their variance is
    below that of a coin with the same mean.
    """
    n = len(outcomes)
    if n == 0:
        return NOTHING
    p = float(outcomes.mean())
    z2 = Z_95 * Z_95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # Rounding must not put the mean itself outside.
    return Estimate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n)


def bootstrap_ratio(sums: Floats, weights: Floats, *, seed: int = 0) -> Estimate:
    """sum(sums) / sum(weights) over independent groups; the interval is by resampling groups.

    Pairs of one group share candidates, so that an interval that takes pairs for independent would
    be too narrow. `count` is the total weight.
    """
    total = float(weights.sum())
    if total == 0:
        return NOTHING
    random = np.random.default_rng(seed)
    drawn = np.empty(RESAMPLES)
    for number in range(RESAMPLES):  # one at a time: groups may be many
        chosen = random.integers(0, len(sums), len(sums))
        weight = weights[chosen].sum()
        drawn[number] = sums[chosen].sum() / weight if weight else np.nan
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Estimate(float(sums.sum()) / total, float(low), float(high), round(total))
