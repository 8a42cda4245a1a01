"""Losses on pairs of scores, as POLAR and InternLM2 define them.

Shape suffix: P pairs. Knows nothing of models or data.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["ranking", "focal"]
Penalty = Literal["none", "log_barrier", "L2"]

BARRIER = (-5.0, 5.0)
"""Scores that `log_barrier` lets pass cheaply; nearing a bound costs without end."""

BARRIER_EDGE = 1e-6
"""Where a score lies beyond a bound, its distance counts as this."""


def ranking(better_P: Tensor, worse_P: Tensor) -> Tensor:
    """[P]: -log sigmoid(better - worse), the Bradley-Terry likelihood of the right order."""
    return -F.logsigmoid(better_P - worse_P)


def focal(better_P: Tensor, worse_P: Tensor) -> Tensor:
    """[P]: the ranking loss, weighted down where the order is already right (InternLM2 paper)."""
    sure_P = torch.relu(torch.sigmoid(better_P - worse_P) - 0.5)
    return (1 - 2 * sure_P) ** 2 * ranking(better_P, worse_P)


def log_barrier(scores: Tensor) -> Tensor:
    """Same shape: 0 at the middle of `BARRIER`, growing towards both of its bounds."""
    low, high = BARRIER
    half = (high - low) / 2
    below = ((scores - low) / half).clamp(min=BARRIER_EDGE)
    above = ((high - scores) / half).clamp(min=BARRIER_EDGE)
    return -(below.log() + above.log())


def pair_loss(
    better_P: Tensor,
    worse_P: Tensor,
    *,
    loss: Loss = "ranking",
    penalty: Penalty = "none",
    penalty_weight: float = 0.01,
) -> Tensor:
    """[P]: the loss of each pair, its penalty on both scores included."""
    loss_P = (ranking if loss == "ranking" else focal)(better_P, worse_P)
    if penalty == "none":
        return loss_P
    both_2P = torch.stack((better_P, worse_P))
    cost_2P = log_barrier(both_2P) if penalty == "log_barrier" else both_2P**2
    return loss_P + penalty_weight * cost_2P.mean(dim=0)
