"""Rewards of golden/model: InternLM's own modelling code, float32, one sequence per forward."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from products import PRODUCTS, products_by

from polar_ray.model import RewardModel, load_model
from polar_ray.model.attention import BlockedAttention
from polar_ray.model.linear import pack_linears
from polar_ray.planning import Pack, build_pack, pack

GOLDEN = Path(__file__).parents[1] / "golden" / "model"
NAMES = ["deep", "gqa", "mha_bias", "mqa", "rope_dynamic", "rope_linear"]
TOLERANCE = 1e-4


def cases(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    read = json.loads((GOLDEN / name / "rewards.json").read_text())["cases"]
    ids = [np.array(case["input_ids"], dtype=np.int32) for case in read]
    return ids, np.array([case["reward"] for case in read], dtype=np.float32)


@torch.inference_mode()
def score(model: RewardModel, one: Pack) -> np.ndarray:
    tensors = map(torch.from_numpy, (one.ids, one.positions, one.ends, one.lengths))
    ids_T, positions_T, ends_R, lengths_T = tensors
    return model(
        ids_T.long(), positions_T, BlockedAttention(one.spans, one.ends.tolist()), ends_R, lengths_T
    ).numpy()


def test_all_checkpoints_are_covered() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == NAMES


def as_engines_have_it(name: str, product: str) -> RewardModel:
    """Ready to score, with linear maps by `product`."""
    model = load_model(GOLDEN / name)
    model.model.blocks[-1].attention.split_projection()
    with products_by(product):
        pack_linears(model)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_rewards_equal_internlms_code(name: str) -> None:
    assert_internlms_rewards(load_model(GOLDEN / name), name)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", NAMES)
def test_rewards_are_the_same_by_either_product(name: str, product: str) -> None:
    assert_internlms_rewards(as_engines_have_it(name, product), name)


def assert_internlms_rewards(model: RewardModel, name: str) -> None:
    ids, rewards = cases(name)
    assert len(ids) >= 10
    assert np.ptp(rewards) > 0.1
    found = np.concatenate([score(model, build_pack([one], [-1], [0])) for one in ids])
    np.testing.assert_allclose(found, rewards, atol=TOLERANCE)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("max_tokens", [50, 10_000])
@pytest.mark.parametrize("name", NAMES)
def test_packed_rewards_are_the_same(name: str, max_tokens: int, product: str) -> None:
    # Dynamic RoPE goes by each record's own length, whatever is scored beside it.
    model = as_engines_have_it(name, product)
    ids, rewards = cases(name)
    found = np.full(len(ids), np.nan, dtype=np.float32)
    bound = model.config.scaled_above
    salts = [len(one) if bound is not None and len(one) > bound else 0 for one in ids]
    for one in pack(ids, max_tokens=max_tokens, salts=salts):
        found[one.records] = score(model, one)
    np.testing.assert_allclose(found, rewards, atol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rope_dynamic"])
def test_a_shared_prefix_gives_the_same_rewards(name: str) -> None:
    model = load_model(GOLDEN / name)
    ids, _ = cases(name)
    whole = max(ids, key=len)
    others = [np.concatenate([whole[:40], one]) for one in ids[:4]]
    alone = np.concatenate([score(model, build_pack([one], [-1], [0])) for one in (whole, *others)])
    pieces = [whole[:40], whole[40:90], whole[90:], *(one[40:] for one in others)]
    shared = build_pack(pieces, [-1, 0, 1, 0, 0, 0, 0], [2, 3, 4, 5, 6])
    np.testing.assert_allclose(score(model, shared), alone, atol=1e-5)


def test_a_packed_forward_can_be_trained() -> None:
    model = load_model(GOLDEN / "gqa").requires_grad_(True)
    ids, _ = cases("gqa")
    one = build_pack([ids[-1][:20], ids[-1][20:], ids[-2]], [-1, 0, 0], [1, 2])
    tensors = map(torch.from_numpy, (one.ids, one.positions, one.ends))
    ids_T, positions_T, ends_R = tensors
    scores_R = model(
        ids_T.long(), positions_T, BlockedAttention(one.spans, one.ends.tolist()), ends_R
    )
    (scores_R[0] - scores_R[1]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
