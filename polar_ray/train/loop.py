"""The training loop in one process: AdamW with warm-up and cosine decay, one pack a step.

Knows nothing of where comparisons come from, nor of files.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from polar_ray.model import RewardModel
from polar_ray.model.attention import BlockedAttention
from polar_ray.planning import Pack
from polar_ray.train.data import Step
from polar_ray.train.loss import Loss, Penalty, pair_loss

logger = logging.getLogger(__name__)


class TrainConfig(BaseModel):
    """How to train; the defaults are POLAR's, but for the learning rate of a model this small."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    final_ratio: float = Field(0.1, ge=0, le=1)
    """The last step's share of the learning rate."""

    loss: Loss = "ranking"
    penalty: Penalty = "none"
    penalty_weight: float = Field(0.01, ge=0)
    compute: Literal["float32", "bfloat16"] = "float32"
    """What matrices are multiplied in; parameters and their updates stay float32."""

    def learning_rate_at(self, step: int) -> float:
        """Linear up over the warm-up, then a cosine down to `final_ratio`; steps count from 0."""
        warmup = max(1, round(self.warmup_ratio * self.steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - 1 - warmup)
        cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
        return self.learning_rate * (self.final_ratio + (1 - self.final_ratio) * cosine)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did."""

    step: int
    loss: float
    accuracy: float
    """Share of the step's pairs in the right order, comparisons counting alike."""

    num_tokens: int
    grad_norm: float
    learning_rate: float


def score_pack(model: RewardModel, pack: Pack) -> Tensor:
    """float32 [R]: the scores of a pack's records, with gradients where they are on."""
    scores_R: Tensor = model(
        torch.from_numpy(pack.ids),
        torch.from_numpy(pack.positions),
        BlockedAttention(pack.spans, pack.ends.tolist()),
        torch.from_numpy(pack.ends),
        torch.from_numpy(pack.lengths),
    )
    return scores_R


def fit(
    model: RewardModel,
    steps: Iterable[Step],
    config: TrainConfig,
    *,
    on_step: Callable[[StepReport], None] | None = None,
) -> None:
    """Trains `model` in place, until `config.steps` or the end of `steps`."""
    model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    for number, step in zip(range(config.steps), steps, strict=False):
        report = _train(model, optimizer, step, config, number)
        if on_step is not None:
            on_step(report)
    model.eval().requires_grad_(False)


def _train(
    model: RewardModel,
    optimizer: torch.optim.Optimizer,
    step: Step,
    config: TrainConfig,
    number: int,
) -> StepReport:
    rate = config.learning_rate_at(number)
    for group in optimizer.param_groups:
        group["lr"] = rate
    low = config.compute == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
        scores_R = score_pack(model, step.pack)
    better_P = scores_R[torch.from_numpy(step.better)]
    worse_P = scores_R[torch.from_numpy(step.worse)]
    weights_P = torch.from_numpy(step.weights)
    losses_P = pair_loss(
        better_P,
        worse_P,
        loss=config.loss,
        penalty=config.penalty,
        penalty_weight=config.penalty_weight,
    )
    loss = (losses_P * weights_P).sum() / weights_P.sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    right_P = (better_P > worse_P).float()
    return StepReport(
        step=number,
        loss=float(loss.detach()),
        accuracy=float((right_P * weights_P).sum() / weights_P.sum()),
        num_tokens=step.pack.num_tokens,
        grad_norm=float(norm),
        learning_rate=rate,
    )
