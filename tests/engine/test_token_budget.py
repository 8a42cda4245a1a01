"""How large packs are, and what happens when one does not fit after all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sample_records import GROUPS

from polar_ray.config import ScorerConfig
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.protocol import Pending
from polar_ray.engine.token_budget import (
    MAX_TOKENS,
    MIN_TOKENS,
    activation_bytes,
    divide,
    fit_tokens,
)
from polar_ray.errors import OutOfMemory
from polar_ray.model import ModelConfig, RewardModel, internlm2
from polar_ray.model.attention import BlockedAttention
from polar_ray.planning import Pack
from polar_ray.records import check_scores
from polar_ray.scorer import Scorer

POLAR_7B = ModelConfig(
    vocab_size=92544,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=65536,
    reward_token_id=92527,
)


def test_a_pack_fits_into_the_memory_that_it_was_chosen_for() -> None:
    for free in (1 << 30, 2 << 30, 8 << 30, 60 << 30):
        tokens = fit_tokens(POLAR_7B, 2, free, "cuda")
        taken = activation_bytes(POLAR_7B, 2, "cuda", tokens)
        assert 0.6 * free < taken <= free or tokens == MAX_TOKENS["cuda"]
    assert fit_tokens(POLAR_7B, 2, 0, "cuda") == MIN_TOKENS
    assert fit_tokens(POLAR_7B, 2, 60 << 30, "cuda") == MAX_TOKENS["cuda"]
    assert fit_tokens(POLAR_7B, 4, 60 << 30, "cpu") == MAX_TOKENS["cpu"]


WEIGHTS = 14 << 30


@pytest.mark.parametrize(
    ("free", "tokens", "cached"),
    [(2, 3500, 0.2), (7, 32768, 0.9), (25, 32768, 16), (64, 32768, 20), (125, 32768, 70)],
)
def test_the_cache_takes_what_packs_leave(free: int, tokens: int, cached: float) -> None:
    """A 7B: GiB that are free beside it, tokens of a pack, and GiB of the cache at least."""
    found = divide(POLAR_7B, 2, free << 30, 2 * WEIGHTS, "cuda")
    taken = activation_bytes(POLAR_7B, 2, "cuda", found.max_tokens)
    assert found.max_tokens >= tokens
    assert found.cache_bytes >= cached * 2**30
    copied = found.cache_bytes / POLAR_7B.num_hidden_layers
    assert taken + found.cache_bytes + copied <= free << 30


def test_layers_in_chunks_are_the_same(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Scorer(ScorerConfig(model=str(tiny_dir))).score(GROUPS)["score"].to_numpy()
    monkeypatch.setitem(internlm2.ROWS, "cpu", 7)
    chunked = Scorer(ScorerConfig(model=str(tiny_dir))).score(GROUPS)["score"].to_numpy()
    np.testing.assert_allclose(chunked, whole, atol=1e-5)


def test_a_long_record_needs_no_square_of_its_length() -> None:
    config = ModelConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=20_000,
        reward_token_id=1,
    )
    torch.manual_seed(0)
    model = RewardModel(config).eval()
    total = 16_384
    largest = 0

    class Largest(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.untyped_storage().nbytes())
            return out

    ids = torch.arange(total) % 50
    paths = BlockedAttention([(0, total, -1)], [total - 1])
    with torch.inference_mode(), Largest():
        scores = model(ids, torch.arange(total), paths, torch.tensor([total - 1]))
    assert torch.isfinite(scores).all()
    assert largest < total * total / 8, "less than an eighth of a mask of T x T bits in bytes"


class _Small:
    """Wraps an engine; has no room for more than `room` tokens at once."""

    name = "native"

    def __init__(self, engine: NativeEngine, room: int) -> None:
        self.engine, self.room, self.refused = engine, room, 0
        self.info = engine.info

    def submit(self, pack: Pack) -> Pending:
        if pack.num_tokens > self.room:
            self.refused += 1
            raise OutOfMemory(f"no room for a pack of {pack.num_tokens} tokens")
        return self.engine.submit(pack)


def test_out_of_memory_halves_packs_for_good(tiny_dir: Path, scorer: Scorer) -> None:
    expected = scorer.score(GROUPS[:10])["score"].to_numpy()
    tight = Scorer(ScorerConfig(model=str(tiny_dir), max_tokens=4096))
    tight.engine = small = _Small(tight.engine, 100)  # type: ignore[assignment, arg-type]
    found = check_scores(tight.score(GROUPS[:10]), 10)["score"].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert tight.num_halvings >= 1
    assert tight.max_tokens <= 100 * 2
    refused = small.refused
    tight.score(GROUPS[:10])
    tight.score(GROUPS[:10])
    assert small.refused <= refused + 2


def test_a_record_that_fits_nowhere_says_so(tiny_dir: Path) -> None:
    tight = Scorer(ScorerConfig(model=str(tiny_dir)))
    tight.engine = _Small(tight.engine, 100)  # type: ignore[assignment, arg-type]
    rows = [*GROUPS[:3], {"prompt": "p", "reference": "r", "output": "word " * 200}]
    table = check_scores(tight.score(rows), 4)
    assert table["score"].is_valid().to_pylist() == [True, True, True, False]
    assert table["error"][3].as_py().startswith("engine_error: no room for a pack of")


def test_torchs_own_error_is_ours(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Scorer(ScorerConfig(model=str(tiny_dir)))

    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(one.engine.model, "forward", full)  # type: ignore[attr-defined]
    table = one.score(GROUPS[:2])
    assert [text[:30] for text in table["error"].to_pylist()] == [
        "engine_error: no room for a pa"
    ] * 2
    assert one.num_halvings == 1
