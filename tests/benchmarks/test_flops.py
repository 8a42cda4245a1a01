"""What torch executes is what the plan says, to one percent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from engines.flops import count_flops
from products import PRODUCTS, products_by

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.native import NativeEngine
from polar_ray.model.attention import BLOCK
from polar_ray.planning import Ids, pack
from polar_ray.planning.cost import Cost, Shape, cost, unshared

WIDE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module", params=PRODUCTS)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> NativeEngine:
    folder = make_checkpoint(tmp_path_factory.mktemp("flops") / "model", **WIDE)
    with products_by(request.param):
        return NativeEngine(NativeEngineConfig(device="cpu"), folder)


def groups(seed: int = 0) -> list[Ids]:
    """Three groups of four records and two loners, one of them a single token."""
    random = np.random.default_rng(seed)
    records: list[Ids] = []
    for _ in range(3):
        prefix = random.integers(5, 400, 300)
        records += [np.concatenate([prefix, random.integers(5, 400, n)]) for n in (7, 40, 90, 280)]
    records += [random.integers(5, 400, 600), random.integers(5, 400, 1)]
    return [one.astype(np.int32) for one in records]


@pytest.mark.parametrize("min_share", [16, 10**6])
@pytest.mark.parametrize("max_tokens", [700, 10_000])
def test_executed_operations_are_the_planned_ones(
    engine: NativeEngine, max_tokens: int, min_share: int
) -> None:
    packs = list(pack(groups(), max_tokens=max_tokens, min_share=min_share))
    executed = count_flops(lambda: [engine.submit(one).result() for one in packs])
    planned = sum((cost(Shape(**WIDE), one, block=BLOCK) for one in packs), Cost(0, 0))
    assert executed == pytest.approx(planned.flops, rel=0.01)


def test_sharing_saves_what_the_plan_says(engine: NativeEngine) -> None:
    ids, shape = groups(), Shape(**WIDE)
    shared, apart = (
        list(pack(ids, max_tokens=10_000, min_share=min_share)) for min_share in (16, 10**6)
    )
    planned = sum((cost(shape, one) for one in apart), Cost(0, 0))
    assert planned == unshared(shape, map(len, ids))
    assert sum(cost(shape, one).flops for one in shared) < 0.6 * planned.flops


def test_attention_of_the_cpu_is_counted() -> None:
    q, k = torch.zeros(1, 2, 8, 16), torch.zeros(1, 2, 24, 16)
    with torch.inference_mode():
        flops = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, k))
    assert flops == 2 * (2 * 2 * 8 * 24 * 16)


def test_a_linear_map_is_two_operations_for_each_weight_and_row() -> None:
    linear = torch.nn.Linear(3, 5)
    assert count_flops(lambda: linear(torch.zeros(7, 3))) == 2 * 7 * 3 * 5
