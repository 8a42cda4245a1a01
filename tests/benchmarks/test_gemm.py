"""The roof over every engine: the model's own shapes, by the fastest product that there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engines import gemm

from polar_ray.model import RewardModel, load_config, load_model


def test_the_shapes_are_those_of_a_layer(tiny_dir: Path) -> None:
    layer = load_model(tiny_dir).model.blocks[0]
    linear = [m.weight.shape for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    assert sorted(gemm.shapes(load_config(tiny_dir))) == sorted(map(tuple, linear))


@torch.inference_mode()
def test_all_products_are_the_same_one() -> None:
    weight, x = torch.randn(77, 100), torch.randn(9, 100)
    exact, *others = (product(x) for product in gemm.products(weight))
    for found in others:
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)


def test_the_fastest_counts_for_each_shape(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def takes(seconds: float) -> gemm.Product:
        def product(x: torch.Tensor) -> torch.Tensor:
            nonlocal now
            now += seconds
            return x

        return product

    # Which one is the fastest changes with the number of inputs.
    monkeypatch.setattr(
        gemm,
        "products",
        lambda weight: [takes(1.0), takes(0.5 if weight.shape[1] == 32 else 2.0), takes(3.0)],
    )
    model = RewardModel(load_config(tiny_dir))
    rate = gemm.gemm_rate(model, [10, 30], clock=lambda: now)
    # Two inputs for each of five weights, of which one has 64 inputs instead of 32.
    weights = 3 * 64 * 32 + 32 * 32 + 32 * 64
    assert rate == 2 * 40 * weights / (4 * 2 * 0.5 + 2 * 1.0)
