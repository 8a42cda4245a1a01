"""8-bit layers: near the float ones, token by token, and scores that keep their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sample_records import GROUPS
from torch import nn

from polar_ray.assets import builtin_model_dir
from polar_ray.config import NativeEngineConfig, ScorerConfig
from polar_ray.engine.device import choose_dtype
from polar_ray.errors import ConfigError
from polar_ray.model import load_model
from polar_ray.model.quantized import KINDS, LEAST_ROWS, Fp8Linear, Int8Linear, quantize
from polar_ray.scorer import Scorer

GOOD = {"int8": 0.02, "fp8": 0.06}
"""Relative error of one layer; float8 has 3 bits of fraction."""


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_layer_is_near_its_original(kind: str, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 96, bias=bias).requires_grad_(False)
    # A column of large activations is what 8 bits are bad at; scales are per token for that.
    x = torch.randn(40, 64) * torch.logspace(-2, 2, 40)[:, None]
    found, wanted = KINDS[kind](linear)(x), linear(x)
    error = (found - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert error.max() < GOOD[kind]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_value_of_a_row_is_the_largest_of_float8(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 16, generator=random) * torch.logspace(-30, 30, 2000)[:, None]
    rounded, scale = Fp8Linear.round(x.to(dtype))
    wide = rounded.float()
    assert torch.isfinite(wide).all()
    assert (wide.abs().amax(dim=1)[scale[:, 0] > 1e-12] == 448).all()


@pytest.mark.parametrize("rows", [1, LEAST_ROWS - 1, LEAST_ROWS, LEAST_ROWS + 1])
def test_float8_products_have_the_rows_that_cublas_wants(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = Fp8Linear(nn.Linear(32, 48).requires_grad_(False)), torch.randn(rows, 32)
    multiplied = []

    def multiply(self: Fp8Linear, x_TI: torch.Tensor, *rest: object) -> torch.Tensor:
        multiplied.append(len(x_TI))
        return real(self, x_TI, *rest)

    real = Fp8Linear.multiply
    monkeypatch.setattr(Fp8Linear, "multiply", multiply)
    found = layer(x)
    assert found.shape == (rows, 48)
    assert multiplied == [max(rows, LEAST_ROWS)]
    torch.testing.assert_close(found[:1], layer(x[:1]))


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_token_does_not_depend_on_its_neighbours(kind: str) -> None:
    layer = KINDS[kind](nn.Linear(32, 48).requires_grad_(False))
    x = torch.randn(20, 32)
    x[3] *= 1000
    torch.testing.assert_close(layer(x)[:3], layer(x[:3].clone()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [Int8Linear, Fp8Linear])
def test_zeros_stay_zeros(layer: type[nn.Module]) -> None:
    linear = nn.Linear(16, 16, bias=False).requires_grad_(False)
    assert layer(linear)(torch.zeros(4, 16)).abs().max() == 0


def test_every_layer_of_every_block_is_replaced() -> None:
    model = load_model(builtin_model_dir(), dtype=torch.float32)
    quantize(model, "int8")
    kinds = [type(m) for block in model.model.blocks for m in block.modules()]
    assert kinds.count(Int8Linear) == 5 * model.config.num_hidden_layers
    assert nn.Linear not in kinds
    assert type(model.v_head) is nn.Linear


def test_int8_scores_stay_near_and_do_not_depend_on_the_batch() -> None:
    exact = Scorer(ScorerConfig()).score(GROUPS)["score"].to_numpy()
    rounded = Scorer(ScorerConfig(engine=NativeEngineConfig(dtype="int8")))
    found = rounded.score(GROUPS)["score"].to_numpy()
    # The built-in model's matching heads are sharp, which 8 bits blunt: order, not equality.
    assert np.corrcoef(found, exact)[0, 1] > 0.97
    alone = [rounded.score([record])["score"][0].as_py() for record in GROUPS]
    # A value at the border of two integers may fall to either side: not to 1e-5 here.
    np.testing.assert_allclose(alone, found, atol=0.02 * np.ptp(exact))
    assert rounded.provenance["dtype"] == "int8"
    assert rounded.provenance["model_digest"] != Scorer().provenance["model_digest"]


@pytest.mark.parametrize(("dtype", "device"), [("fp8", "cpu"), ("int8", "cuda")])
def test_a_kind_that_does_not_run_there_is_refused(dtype: str, device: str) -> None:
    with pytest.raises(ConfigError, match=f"engine.dtype={dtype} does not run on {device}"):
        choose_dtype(dtype, device)


@pytest.mark.parametrize(("inputs", "rounded"), [(1, False), (2, True), (1 << 17, False)])
def test_what_integers_cannot_do_stays_as_it_is(inputs: int, rounded: bool) -> None:
    class Parts(nn.Module):
        pass

    block, model = Parts(), Parts()
    block.attention, block.feed_forward = Parts(), Parts()
    block.attention.wo = nn.Linear(inputs, 3, device="meta" if inputs > 9 else None)
    block.attention.wo.requires_grad_(False)
    model.model = Parts()
    model.model.blocks = [block]
    quantize(model, "int8")  # type: ignore[arg-type]
    assert isinstance(block.attention.wo, Int8Linear) == rounded
