"""What one step of the loop is judged by, and the curves of a run.

The pool knows scores, not what is right. Whether a policy has learnt, or has found out what the
judge likes, shows in the pool's result tables if each group also holds yardsticks: its reference
answer, as one more candidate, and an answer by chance. They are scored by the same model in the
same call, so the figures stay comparable when the pool's model is exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

CLOSE = 1e-3
"""Scores of the same text differ by rounding."""


@dataclass(frozen=True, slots=True)
class Step:
    """Figures of one step. Rewards are on a scale from 0, an answer by chance, to 1, the
    reference."""

    reward: float
    low: float
    """What a tenth of the candidates stay below; above 1, most of them beat the reference."""

    high: float
    """What a tenth of them exceed."""

    above: float
    """Share of candidates that score above their question's own reference answer. None should: the
    judge was asked how well they agree with it."""

    accuracy: float
    """Share of candidates that are right, which a judge alone cannot say."""

    rows: int
    unscored: int
    models: tuple[str, ...]
    """Digests of the models that scored the rows, one for each call at the most."""

    def __str__(self) -> str:
        return (
            f"reward {self.reward:5.2f} ({self.low:5.2f} to {self.high:5.2f}), "
            f"right {self.accuracy:4.0%}, above the reference {self.above:4.0%}"
        )


def measure(
    scores_QG: npt.NDArray[np.float64],
    yardsticks_Q2: npt.NDArray[np.float64],
    right: Sequence[bool],
    models: Sequence[str],
) -> Step:
    """The figures of candidates, of their references and chance answers; NaN: without a score."""
    reference_Q, chance_Q = yardsticks_Q2.T
    chance = float(np.nanmean(chance_Q))
    rewards = (scores_QG - chance) / (float(np.nanmean(reference_Q)) - chance)
    low, high = np.nanquantile(rewards, [0.1, 0.9])
    return Step(
        reward=float(np.nanmean(rewards)),
        low=float(low),
        high=float(high),
        above=float(np.mean(scores_QG > reference_Q[:, None] + CLOSE)),
        accuracy=float(np.mean(right)),
        rows=scores_QG.size + yardsticks_Q2.size,
        unscored=int(np.isnan(scores_QG).sum() + np.isnan(yardsticks_Q2).sum()),
        models=tuple(sorted(set(models))),
    )


def draw(steps: Sequence[Step], path: Path, events: dict[str, int], title: str) -> None:
    """The curves of a run as a picture; `events` are marked at their steps."""
    from matplotlib.figure import Figure  # polar-ray's extra [eval]

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="step")
    at = range(len(steps))
    band = ([step.low for step in steps], [step.high for step in steps])
    axes.fill_between(at, *band, alpha=0.15, label="reward, 10 to 90 % of the candidates")
    axes.plot(at, [step.reward for step in steps], label="reward (0: by chance, 1: the reference)")
    axes.plot(at, [step.accuracy for step in steps], label="right")
    axes.plot(at, [step.above for step in steps], ":", label="scored above the reference")
    axes.axhline(1.0, color="gray", linewidth=0.5)
    for name, step in events.items():
        axes.axvline(step, color="gray", linestyle="--", linewidth=0.8)
        axes.text(step, axes.get_ylim()[0], f" {name}", rotation=90, va="bottom", fontsize=8)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
