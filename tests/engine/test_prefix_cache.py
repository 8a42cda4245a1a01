"""The prefix cache: the same scores for less work, bounded, and never another prefix's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_records import GROUPS

from polar_ray.config import NativeEngineConfig, ScorerConfig
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.prefix_cache import PrefixCache
from polar_ray.model import load_config
from polar_ray.planning import pack
from polar_ray.scorer import Scorer

GROUP = [
    {
        "prompt": "How many pencils are left of 12 boxes with 24 pencils each, if 45 are lost?",
        "reference": "12 * 24 = 288, and 288 - 45 = 243 pencils are left.",
        "output": output,
    }
    for output in ("243", "There are 243 left.", "", "12 * 24 = 288 - 45 = 243", "I do not know.")
]


def caching(folder: Path, size: int = 1 << 24) -> Scorer:
    engine = NativeEngineConfig(prefix_cache_bytes=size)
    return Scorer(ScorerConfig(model=str(folder), engine=engine))


def scores(scorer: Scorer, rows: list[dict[str, str]]) -> np.ndarray:
    return scorer.score(rows)["score"].to_numpy()


def test_row_by_row_costs_little_more_than_at_once(scorer: Scorer, tiny_dir: Path) -> None:
    cached = caching(tiny_dir)
    found = np.concatenate([scores(cached, [row]) for row in GROUP])
    np.testing.assert_allclose(found, scores(scorer, GROUP), atol=1e-5)
    counts = cached.engine.counters
    assert (counts["prefix_hits"], counts["prefix_misses"]) == (len(GROUP) - 1, 1)
    lengths = [len(one.ids) for one in cached.encode(table(GROUP))]
    prefix = cached.encode(table(GROUP))[0].prefix_length
    assert counts["tokens_computed"] == sum(lengths) - prefix * (len(GROUP) - 1)
    assert counts["prefix_tokens_reused"] == prefix * (len(GROUP) - 1)


def table(rows: list[dict[str, str]]):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    return pa.Table.from_pylist(rows)


@given(st.lists(st.sampled_from([*GROUP, *GROUPS]), min_size=1, max_size=12), st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_calls_gives_the_same_scores(
    scorer: Scorer, tiny_dir: Path, rows: list[dict[str, str]], data: st.DataObject
) -> None:
    cached = caching(tiny_dir, data.draw(st.sampled_from([1, 20_000, 60_000, 1 << 24])))
    expected = scores(scorer, rows)
    found = []
    while rows:
        size = data.draw(st.integers(1, len(rows)))
        found.append(scores(cached, rows[:size]))
        rows = rows[size:]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)
    cache = cached.engine.cache
    assert cache.size_bytes == sum(entry.size_bytes for entry in cache._entries.values())


def test_what_was_unused_longest_makes_room(tiny_dir: Path) -> None:
    config = load_config(tiny_dir)
    per_token = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 4
    engine = NativeEngine(NativeEngineConfig(prefix_cache_bytes=per_token * 100), tiny_dir)
    assert engine.cache is not None
    prefixes = [np.random.default_rng(n).integers(5, 400, 40) for n in range(3)]

    def score(prefix: int) -> int:
        """Hits of the cache for one record of a prefix."""
        ids = np.append(prefixes[prefix], [7, 8, 9]).astype(np.int32)
        [one] = pack([ids], max_tokens=99, prefix_lengths=[40])
        before = engine.cache.hits
        engine.submit(one).result()
        assert engine.cache.size_bytes <= per_token * 100
        return engine.cache.hits - before

    assert [score(n) for n in (0, 1, 0, 2, 0, 1)] == [0, 0, 1, 0, 1, 0]
    assert len(engine.cache) == 2
    engine.cache.clear()
    assert [score(0), engine.cache.size_bytes] == [0, per_token * 40]


def test_other_weights_have_another_cache(tmp_path: Path) -> None:
    first, second = (make_checkpoint(tmp_path / str(n), seed=n) for n in (1, 2))
    one, other = caching(first), caching(second)
    scores(one, GROUP[:1])
    alone = scores(Scorer(ScorerConfig(model=str(second))), GROUP[:2])
    np.testing.assert_allclose(scores(other, GROUP[:2]), alone, atol=1e-5)
    assert other.provenance["model_digest"] != one.provenance["model_digest"]


def test_records_that_turn_by_their_length_share_no_prefix(tmp_path: Path) -> None:
    folder = make_checkpoint(
        tmp_path / "dynamic", rope_kind="dynamic", rope_factor=2.0, max_position_embeddings=64
    )
    plain, cached = Scorer(ScorerConfig(model=str(folder))), caching(folder)
    rows = [{**GROUP[0], "output": "pencil " * n} for n in (1, 30, 60, 30)]
    found = np.concatenate([scores(cached, [row]) for row in rows])
    np.testing.assert_allclose(found, scores(plain, rows), atol=1e-5)
    assert cached.engine.counters["prefix_hits"] == 1


def test_an_entry_serves_spans_that_begin_later(tiny_dir: Path) -> None:
    cached, plain = caching(tiny_dir), caching(tiny_dir, 0)
    other = {**GROUP[0], "reference": "no idea"}
    scores(cached, GROUP[:1])
    # Beside another group with the same prompt, the prefix is cut where the prompts end.
    rows = [GROUP[1], other]
    np.testing.assert_allclose(scores(cached, rows), scores(plain, rows), atol=1e-5)
    assert cached.engine.counters["prefix_hits"] == 1


def test_an_entry_that_begins_earlier_takes_a_later_ones_place(tiny_dir: Path) -> None:
    cached = caching(tiny_dir)
    other = {**GROUP[0], "reference": "no idea"}
    scores(cached, [GROUP[1], other])
    scores(cached, GROUP[:1])
    cache = cached.engine.cache
    assert cache.size_bytes == sum(entry.size_bytes for entry in cache._entries.values())


def test_nothing_is_kept_unless_asked_on_a_cpu(tiny_dir: Path) -> None:
    engine = NativeEngine(NativeEngineConfig(device="cpu"), tiny_dir)
    assert engine.cache is None
    assert not engine.info.keeps_prefixes


def test_a_prefix_larger_than_the_cache_is_not_kept(tiny_dir: Path) -> None:
    cached = caching(tiny_dir, 10)
    scores(cached, GROUP)
    assert isinstance(cached.engine.cache, PrefixCache)  # type: ignore[attr-defined]
    assert len(cached.engine.cache) == 0  # type: ignore[attr-defined]


@pytest.mark.gpu
def test_a_cache_on_cuda_changes_no_score(tiny_dir: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    found = []
    for size in (0, 1 << 24):
        engine = NativeEngineConfig(device="cuda", dtype="float32", prefix_cache_bytes=size)
        one = Scorer(ScorerConfig(model=str(tiny_dir), engine=engine))
        found.append(np.concatenate([scores(one, [row]) for row in GROUP]))
    np.testing.assert_allclose(*found, atol=1e-4)
