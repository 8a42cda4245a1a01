"""Every way in which the engine can compute a pack gives the same scores, on any tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from graph_recorder import record
from hypothesis import given, settings
from hypothesis import strategies as st
from products import products_by
from varlen_plain import plain

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.graphs import Graphs
from polar_ray.engine.native import NativeEngine
from polar_ray.model import load_config
from polar_ray.model.paths import by_varlen
from polar_ray.planning import Pack, build_pack, pack

TOLERANCE = 1e-5
ids = st.integers(5, 12)


@st.composite
def tries(draw: st.DrawFn) -> list[np.ndarray]:
    """Records that begin alike at any depth, with duplicates, prefixes of others, single tokens."""
    records: list[list[int]] = [draw(st.lists(ids, min_size=1, max_size=40))]
    for _ in range(draw(st.integers(0, 9))):
        before = draw(st.sampled_from(records))
        start = before[: draw(st.integers(0, len(before)))]
        records.append((start + draw(st.lists(ids, max_size=25))) or [draw(ids)])
    return [np.array(one, dtype=np.int32) for one in records]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NativeEngine]:
    folder = make_checkpoint(tmp_path_factory.mktemp("modes") / "model", seed=3)
    varlen = NativeEngine(NativeEngineConfig(device="cpu"), folder)
    varlen._prepare = by_varlen(plain)
    cached, both = (
        NativeEngine(NativeEngineConfig(device="cpu", prefix_cache_bytes=size), folder)
        for size in (1 << 20, 30_000)
    )
    both._prepare = by_varlen(plain)
    graphs, graphs_cached = (
        NativeEngine(NativeEngineConfig(device="cpu", prefix_cache_bytes=size), folder)
        for size in (0, 30_000)
    )
    for engine in (graphs, graphs_cached):
        engine._prepare = by_varlen(plain)
        engine._graphs = Graphs(
            engine.model,
            engine._prepare,
            load_config(folder),
            "cpu",
            torch.float32,
            num_known=50 if engine.cache else 0,
            token_counts=[16, 32, 64],
            record=record,
        )
    joined = NativeEngine(NativeEngineConfig(device="cpu"), folder)
    joined.model.join_gates()
    with products_by("oneDNN"):
        packed = NativeEngine(NativeEngineConfig(device="cpu"), folder)
    return {
        "oneDNN": packed,
        "joined": joined,
        "blocked": NativeEngine(NativeEngineConfig(device="cpu"), folder),
        "varlen": varlen,
        "cached": cached,
        "varlen, cached": both,
        "graphs": graphs,
        "graphs, cached": graphs_cached,
    }


def scores(engine: NativeEngine, packs: Iterable[Pack], count: int) -> np.ndarray:
    found = np.full(count, np.nan, dtype=np.float32)
    for one in packs:
        found[one.records] = engine.submit(one).result()
    return found


PLANS: dict[str, Callable[[list[np.ndarray]], Iterable[Pack]]] = {
    "shared": lambda records: pack(records, max_tokens=10_000, min_share=1),
    "shared where it pays": lambda records: pack(records, max_tokens=10_000),
    "small packs": lambda records: pack(records, max_tokens=48, min_share=2),
    "unshared": lambda records: [build_pack(records, [-1] * len(records), range(len(records)))],
    "prefixes": lambda records: pack(
        records, max_tokens=60, min_share=2, prefix_lengths=[len(one) // 2 for one in records]
    ),
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    "mode",
    [
        "blocked",
        "varlen",
        "cached",
        "varlen, cached",
        "oneDNN",
        "joined",
        "graphs",
        "graphs, cached",
    ],
)
@given(records=tries())
@settings(max_examples=15)
def test_all_modes_agree(
    engines: dict[str, NativeEngine], mode: str, plan: str, records: list[np.ndarray]
) -> None:
    alone = (build_pack([one], [-1], [0], [i]) for i, one in enumerate(records))
    expected = scores(engines["blocked"], alone, len(records))
    found = scores(engines[mode], PLANS[plan](records), len(records))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
