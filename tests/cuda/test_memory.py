"""What a device's memory is divided into holds: estimates against what lives at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines.fake_cuda import GIB, FakeCuda
from engines.workloads import group_of, grouped
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.config import NativeEngineConfig
from polar_ray.engine import fits_beside
from polar_ray.engine.graphs import Graphs, graph_bytes
from polar_ray.engine.token_budget import MAX_TOKENS, activation_bytes, prefix_token_bytes
from polar_ray.model import load_config
from polar_ray.planning import Ids, Pack, pack

Folder = Callable[..., Path]


def first(ids: list[Ids], max_tokens: int = 32768) -> Pack:
    return next(pack(ids, max_tokens=max_tokens))


def group(prefix: int, own: int, size: int) -> list[Ids]:
    return grouped(np.random.default_rng(prefix + own), prefix, [own] * size)


def measure(device: FakeCuda, engine: Any, one: Pack, config: Any) -> tuple[int, int]:
    """The most bytes that lived at once, and the estimate."""
    _, trace = device.submit(engine, one)
    return trace.peak, activation_bytes(config, engine.dtype.itemsize, "cuda", one.num_tokens)


HARD = {
    "few tokens, and a prefix that is gathered for many": group(1000, 8, 130),
    "prefixes that are gathered hundreds of times": group(12_000, 80, 250),
    "long outputs behind a long prefix": group(12_000, 300, 64),
    "short prefixes": group(771, 257, 100),
    "no prefix": group(0, 500, 60),
    "one record": group(0, 32_768, 1),
    "one record of twice a pack": group(0, 65_536, 1),
    "scores at every token": [np.arange(n, dtype=np.int32) for n in range(1, 1200)],
}


@pytest.mark.parametrize(("shape", "dtype"), [("7B", "bfloat16"), ("1.8B", "fp8")])
def test_the_estimate_is_an_upper_bound(
    device: FakeCuda, folder: Folder, shape: str, dtype: str
) -> None:
    engine = device.engine(folder(shape), dtype=dtype, prefix_cache_bytes=0)
    for name, ids in HARD.items():
        peak, estimate = measure(device, engine, first(ids), load_config(folder(shape)))
        assert peak <= estimate, f"{name}: {peak / GIB:.2f} GiB"
        if sum(map(len, ids)) >= 32_000:
            assert estimate < 1.8 * peak, f"{name}: {peak / GIB:.2f} of {estimate / GIB:.2f} GiB"


def test_the_estimate_is_an_upper_bound_where_there_is_no_flash(
    device: FakeCuda, folder: Folder
) -> None:
    engine = device.engine(folder("7B"), dtype="float32", prefix_cache_bytes=0)
    for ids in (group(771, 257, 4), group(0, 2000, 1)):
        peak, estimate = measure(device, engine, first(ids), load_config(folder("7B")))
        assert peak <= estimate


def test_no_pack_takes_more_than_is_estimated(device: FakeCuda, folder: Folder) -> None:
    engine = device.engine(folder("7B"), prefix_cache_bytes=0)
    config = load_config(folder("7B"))
    sizes = st.tuples(st.integers(0, 6000), st.integers(1, 900), st.integers(1, 120))

    @given(st.lists(sizes, min_size=1, max_size=4))
    @settings(max_examples=6)
    def check(groups: list[tuple[int, int, int]]) -> None:
        ids = [record for each in groups for record in group(*each)]
        peak, estimate = measure(device, engine, first(ids), config)
        assert peak <= estimate

    check()


def test_the_cache_never_holds_more_than_it_may(device: FakeCuda, folder: Folder) -> None:
    config = load_config(folder("7B"))
    capacity = 5000 * prefix_token_bytes(config, 2)
    engine = device.engine(folder("7B"), prefix_cache_bytes=capacity)
    base, random = device.live, np.random.default_rng(0)
    for _ in range(6):
        sizes = random.integers(50, 3000, 4).tolist()
        ids = [one for n in sizes for one in group(n, 40, 3)]
        prefixes = [n for n in sizes for _ in range(3)]
        for one in pack(ids, max_tokens=32768, prefix_lengths=prefixes):
            known = engine.cache.size_bytes
            peak, estimate = measure(device, engine, one, config)
            copied = capacity // config.num_hidden_layers
            assert known + peak <= capacity + copied + estimate
            assert device.live - base == engine.cache.size_bytes <= capacity
    assert engine.counters["prefix_hits"] == 0
    device.submit(engine, one)
    assert engine.counters["prefix_hits"] > 0


@pytest.mark.parametrize("total", [4, 8, 24, 140])
def test_packs_and_cache_fit_beside_the_weights(folder: Folder, total: int) -> None:
    with FakeCuda(total_bytes=total * GIB) as device:
        engine = device.engine(folder("7B"))
        # The cache full, and then the hardest pack that there is.
        held = torch.empty(engine.cache.capacity_bytes, dtype=torch.uint8, device="cuda")
        assert held.nbytes > 0.09 * (total * GIB - device.live)
        most = engine.info.max_tokens
        device.submit(engine, first(group(most // 3, 80, 400), most))


@pytest.mark.parametrize("shape", ["7B", "1.8B"])
def test_graphs_hold_no_more_than_is_set_aside(folder: Folder, shape: str) -> None:
    with FakeCuda() as device:
        engine = device.engine(folder(shape), prefix_cache_bytes=1 << 30)
        before = device.live
        config = load_config(folder(shape))
        arguments = engine.model, engine._prepare, config, "cuda", engine.dtype
        with device.tracing() as trace:
            made = Graphs(*arguments)
        assert device.live - before < trace.peak <= graph_bytes(config, 2) < 8 * trace.peak
        del made


def test_a_pack_without_room_empties_the_cache(device: FakeCuda, folder: Folder) -> None:
    engine = device.engine(folder("7B"), prefix_cache_bytes=1 << 30)
    ids = group(500, 40, 3)
    one = next(pack(ids, max_tokens=32768, prefix_lengths=[500] * 3))
    device.submit(engine, one)
    assert engine.cache.size_bytes > 0
    engine.failed(torch.OutOfMemoryError("CUDA out of memory"), one)
    assert (len(engine.cache), engine.cache.size_bytes) == (0, 0)


def test_a_model_is_loaded_beside_one_whose_cache_is_full(device: FakeCuda, folder: Folder) -> None:
    path, config = folder("7B"), NativeEngineConfig(device="cuda")
    engine = device.engine(path)
    held = torch.empty(engine.cache.capacity_bytes, dtype=torch.uint8, device="cuda")
    assert fits_beside(config, path)
    other = device.engine(path)
    assert other.info.max_tokens == engine.info.max_tokens
    assert other.cache.capacity_bytes == engine.cache.capacity_bytes, "as if it were alone"
    del held


@pytest.mark.parametrize("total", [4, 140])
def test_weights_are_swapped_in_place_without_loss(folder: Folder, total: int) -> None:
    path = folder("7B")
    with FakeCuda(total_bytes=total * GIB) as device:
        seen = []
        for _ in range(2):
            engine = device.engine(path)
            seen.append((engine.info.max_tokens, engine.cache.capacity_bytes))
            ids = group_of(16, 256, 256, 256)
            device.submit(engine, first(ids, engine.info.max_tokens))
            engine.close()
            assert device.live == device.reserved == 0, "nothing is left, nor kept by torch"
        assert len(set(seen)) == 1


def test_what_torch_keeps_is_free(device: FakeCuda, folder: Folder) -> None:
    path = folder("7B")
    before = device.engine(path).info.max_tokens
    torch.empty(100 * GIB, dtype=torch.uint8, device="cuda")
    assert device.reserved >= 100 * GIB
    engine = device.engine(path, prefix_cache_bytes=0)
    assert engine.info.max_tokens == before == MAX_TOKENS["cuda"]
