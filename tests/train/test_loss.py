"""Losses against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from polar_ray.train.loss import Loss, Penalty, focal, log_barrier, pair_loss, ranking


def test_ranking_is_minus_log_sigmoid_of_the_margin() -> None:
    loss = ranking(torch.tensor([0.0, 2.0, -1.0]), torch.tensor([0.0, 1.0, 1.0]))
    wanted = [math.log(1 + math.exp(-margin)) for margin in (0.0, 1.0, -2.0)]
    assert loss.tolist() == pytest.approx(wanted)


def test_ranking_survives_huge_margins() -> None:
    loss = ranking(torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4]))
    assert loss.tolist() == [0.0, 2e4]


def test_focal_leaves_wrong_pairs_alone_and_weakens_right_ones() -> None:
    better, worse = torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.0])
    sure = 1 / (1 + math.exp(-3.0)) - 0.5
    wanted = [math.log(1 + math.e), (1 - 2 * sure) ** 2 * math.log(1 + math.exp(-3.0))]
    assert focal(better, worse).tolist() == pytest.approx(wanted)


def test_log_barrier_is_nothing_in_the_middle_and_finite_beyond_the_bounds() -> None:
    cost = log_barrier(torch.tensor([0.0, 4.0, 5.0, 9.0]))
    assert cost[0] == 0.0
    assert cost[1] == pytest.approx(-(math.log(9 / 5) + math.log(1 / 5)))
    assert torch.isfinite(cost).all()
    assert cost[2] > cost[1]


@pytest.mark.parametrize("loss", ["ranking", "focal"])
@pytest.mark.parametrize("penalty", ["none", "log_barrier", "L2"])
def test_every_loss_pulls_the_better_score_up(loss: Loss, penalty: Penalty) -> None:
    better = torch.tensor([0.1], requires_grad=True)
    worse = torch.tensor([0.2], requires_grad=True)
    pair_loss(better, worse, loss=loss, penalty=penalty).sum().backward()
    assert better.grad is not None
    assert worse.grad is not None
    assert better.grad.item() < 0 < worse.grad.item()


def test_penalty_is_the_mean_over_both_scores() -> None:
    better, worse = torch.tensor([3.0]), torch.tensor([1.0])
    bare = pair_loss(better, worse)
    punished = pair_loss(better, worse, penalty="L2", penalty_weight=0.5)
    assert (punished - bare).item() == pytest.approx(0.5 * (9 + 1) / 2)
