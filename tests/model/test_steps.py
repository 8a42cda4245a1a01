"""A forward without gradients: in place, into buffers, in runs of rows, with w1 and w3 as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import make_checkpoint
from torch import Tensor, nn

from polar_ray.model import RewardModel, internlm2, load_model
from polar_ray.model.attention import BlockedAttention
from polar_ray.model.quantized import Int8Linear, quantize
from polar_ray.model.steps import PLAIN, add_product, adds_by_itself

GOLDEN = Path(__file__).parents[1] / "golden" / "model"
SPANS = [(0, 20, -1), (20, 33, 0), (33, 34, 0), (34, 60, -1)]
ENDS = [32, 33, 59]


def score(model: RewardModel) -> Tensor:
    ids_T = torch.arange(60) % 50 + 5
    positions_T = torch.cat([torch.arange(33), torch.tensor([20]), torch.arange(26)])
    paths = BlockedAttention(SPANS, ENDS)
    scores_R: Tensor = model(ids_T, positions_T, paths, torch.tensor(ENDS), torch.full((60,), 33))
    return scores_R


@torch.inference_mode()
def scored(model: RewardModel) -> Tensor:
    return score(model)


@pytest.fixture(params=["gqa", "mha_bias", "mqa", "rope_dynamic"])
def model(request: pytest.FixtureRequest) -> RewardModel:
    return load_model(GOLDEN / request.param)


def test_scores_are_those_of_training(model: RewardModel) -> None:
    torch.testing.assert_close(scored(model), score(model), rtol=0, atol=2e-6)


def test_no_weight_is_written(model: RewardModel) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    first = scored(model)
    assert torch.equal(scored(model), first)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize("rows", [1, 7, 59, 60])
def test_runs_of_rows_change_nothing(
    model: RewardModel, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scored(model)
    monkeypatch.setitem(internlm2.ROWS, "cpu", rows)
    torch.testing.assert_close(scored(model), whole, rtol=0, atol=2e-6)


def test_w1_and_w3_as_one_product(model: RewardModel) -> None:
    wanted, size = scored(model), sum(p.numel() for p in model.parameters())
    model.join_gates()
    torch.testing.assert_close(scored(model), wanted, rtol=0, atol=2e-6)
    assert sum(p.numel() for p in model.parameters()) == size
    assert not [name for name in model.state_dict() if ".w1." in name or ".w3." in name]


def test_one_product_in_8_bits() -> None:
    apart, joined = (load_model(GOLDEN / "gqa") for _ in range(2))
    joined.join_gates()
    for model in (apart, joined):
        model.model.blocks[-1].attention.split_projection()
        quantize(model, "int8")
    assert isinstance(joined.model.blocks[0].feed_forward.w13, Int8Linear)
    torch.testing.assert_close(scored(joined), scored(apart), rtol=0, atol=2e-6)


def test_one_product_of_a_rank(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    x_TD = torch.randn(9, load_model(folder).config.hidden_size)
    whole, *parts = (
        load_model(folder, rank=rank, world_size=size).model.blocks[0].feed_forward
        for rank, size in ((0, 1), (0, 2), (1, 2))
    )
    for part in parts:
        part.join_gate()
    summed = sum(part.w2(part.gated(x_TD, PLAIN)) for part in parts)
    torch.testing.assert_close(summed, whole.w2(whole.gated(x_TD, PLAIN)))


def hooked() -> nn.Module:
    linear = nn.Linear(6, 4, bias=False)
    linear.register_forward_hook(lambda module, inputs, out: out.mul_(2))
    return linear


@pytest.mark.parametrize(
    ("make", "alone"),
    [
        (lambda: nn.Linear(6, 4, bias=False), True),
        (lambda: nn.Linear(6, 4), False),
        (hooked, False),
        (lambda: Int8Linear(nn.Linear(6, 4, bias=False)), False),
    ],
    ids=["plain", "bias", "sum over ranks", "8 bits"],
)
@torch.inference_mode()
def test_a_product_is_added_where_the_residual_stands(make: object, alone: bool) -> None:
    assert callable(make)
    linear = make()
    assert adds_by_itself(linear) is alone
    x_TD, y_TF = torch.randn(5, 4), torch.randn(5, 6)
    wanted = x_TD + linear(y_TF)
    assert add_product(x_TD, linear, y_TF).data_ptr() == x_TD.data_ptr()
    torch.testing.assert_close(x_TD, wanted)
