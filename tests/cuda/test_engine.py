"""The engine's CUDA branches, for the published shapes, on a device that is not there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines.fake_cuda import FLASH, GIB, GRAPH, FakeCuda, Trace
from engines.refusals import Fault
from engines.workloads import group_of, grouped

from polar_ray.engine import graphs, native
from polar_ray.errors import ConfigError, EngineError, OutOfMemory
from polar_ray.model import internlm2
from polar_ray.planning import Ids, Pack, pack

Folder = Callable[..., Path]


def lone(count: int) -> list[Ids]:
    return grouped(np.random.default_rng(count), 0, [count])


W1 = [one for n in range(8) for one in group_of(16, 256, 256, 256, seed=n)]
PACKS = {
    "one token": lone(1),
    "a group": W1[:16],
    "a chunk and a token": lone(8193),
    "16k": lone(16384),
}


def first(ids: list[Ids], max_tokens: int = 32768) -> Pack:
    return next(pack(ids, max_tokens=max_tokens))


def submit(device: FakeCuda, engine: Any, one: Pack) -> Trace:
    pending, trace = device.submit(engine, one)
    assert pending.result().shape == (len(one.ends),)
    return trace


@pytest.mark.parametrize("shape", ["7B", "1.8B"])
def test_all_layers_of_a_published_shape(device: FakeCuda, folder: Folder, shape: str) -> None:
    engine = device.engine(folder(shape, num_hidden_layers=None))
    assert (engine.info.dtype, engine.info.max_tokens) == ("bfloat16", 32768)
    for ids in (lone(300), W1):
        trace = submit(device, engine, first(ids))
        assert len(trace.uploads) == 1, "ids, positions and plans travel in one copy"
        calls = sum(op.name in FLASH for op in trace.ops)
        assert calls == len(engine.model.model.layers), "attention is one call in each layer"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "fp8"])
def test_every_dtype(device: FakeCuda, folder: Folder, dtype: str) -> None:
    engine = device.engine(folder("7B"), dtype=dtype)
    for case, ids in PACKS.items():
        if dtype == "float32" and case == "16k":
            continue  # there is no flash attention for it: thousands of calls
        names = {op.name for op in submit(device, engine, first(ids)).ops}
        assert bool(names & set(FLASH)) == (dtype != "float32")
        assert ("_scaled_mm" in names) == (dtype == "fp8")


def test_a_dtype_that_the_device_has_not_is_refused(folder: Folder) -> None:
    with FakeCuda(capability=(8, 0)) as device:
        with pytest.raises(ConfigError, match="int8 does not run on cuda"):
            device.engine(folder("7B"), dtype="int8")
        with pytest.raises(ConfigError, match=r"capability 8\.9"):
            device.engine(folder("7B"), dtype="fp8")


def test_a_rank_has_its_part_and_sums_twice_a_layer(device: FakeCuda, folder: Folder) -> None:
    whole, part = (device.engine(folder("7B"), world_size=size) for size in (1, 2))
    sizes = [sum(p.numel() for p in one.model.model.layers.parameters()) for one in (whole, part)]
    assert sizes[1] < 0.501 * sizes[0]
    trace = submit(device, part, first(lone(300)))
    assert device.reduced == [(300, 4096)] * 2 + [(1, 4096)] * 2
    assert any(op.shapes[0][1] == 16 for op in trace.ops if op.name in FLASH)


def test_a_result_waits_for_its_own_pack_alone(device: FakeCuda, folder: Folder) -> None:
    engine = device.engine(folder("7B"))
    (one, sent), (other, _) = (device.submit(engine, first(lone(n))) for n in (300, 400))
    assert sent.downloads == [4], "the copy was queued with the pack"
    for pending in (one, other):
        with device.tracing() as trace:
            pending.result()
        assert trace.waits == ["an event"]
        assert not trace.downloads, "it would come behind the packs that were sent meanwhile"


@pytest.mark.parametrize(("shape", "most"), [("7B", 256), ("1.8B", 768)])
def test_a_small_pack_is_one_graph(device: FakeCuda, folder: Folder, shape: str, most: int) -> None:
    engine = device.engine(folder(shape), graphs=True)
    for ids in (lone(1), lone(most - 1), group_of(4, 20, 20, 30)):
        trace = submit(device, engine, first(ids))
        assert len(trace.uploads) == 1
        assert GRAPH in {op.name for op in trace.ops}
        assert not {op.name for op in trace.ops} & set(FLASH), "all kernels are in the graph"
    for ids in (lone(most), [one for n in range(65) for one in lone(2 + n % 3)]):
        assert GRAPH not in {op.name for op in submit(device, engine, first(ids)).ops}


def test_an_output_behind_a_known_prefix_is_one_graph(device: FakeCuda, folder: Folder) -> None:
    engine = device.engine(folder("7B"), graphs=True)
    ids = group_of(4, 256, 256, 200)
    for number, record in enumerate(ids):
        one = next(pack([record], max_tokens=32768, prefix_lengths=[771]))
        names = [op.name for op in submit(device, engine, one).ops]
        assert (GRAPH in names) == (number > 0), "the first leaves its prefix to the others"
    assert engine.counters["prefix_hits"] == 3


def test_what_cannot_be_in_graphs_does_without(
    device: FakeCuda, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    engine = device.engine(folder("7B"), graphs=True, dtype="float32")
    assert "engine.graphs is ignored" in caplog.text
    submit(device, engine, first(lone(30)))


def test_graphs_that_are_off_are_not_used(
    device: FakeCuda, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "error", lambda *_: 0.2)
    engine = device.engine(folder("7B"), graphs=True)
    names = {op.name for op in submit(device, engine, first(lone(30))).ops}
    assert GRAPH not in names
    assert names & set(FLASH)


# What must not pass: faults planted into the engine.


def plant(
    device: FakeCuda, folder: Folder, monkeypatch: pytest.MonkeyPatch, where: Any, **changes: Any
) -> str:
    """What a pack fails with after the changes; it does not without."""
    engine = device.engine(folder("7B"))
    submit(device, engine, first(lone(300)))
    for name, change in changes.items():
        monkeypatch.setattr(where, name, change(getattr(where, name)))
    with pytest.raises((Fault, EngineError)) as failure:
        submit(device, engine, first(lone(300)))
    return str(failure.value)


PLANTED: dict[str, tuple[Any, str, Callable[[Any], Any], str]] = {
    "a number for the host": (
        internlm2,
        "rope_angles",
        lambda real: lambda c, p, n: real(c, p, n) * p.max().item(),
        "waits for a number",
    ),
    "a copy to the host": (
        internlm2,
        "rope_angles",
        lambda real: lambda c, p, n: real(c, p.cpu().to(p.device), n),
        "waits for a copy to the host",
    ),
    "a mask as an index": (
        internlm2,
        "rope_angles",
        lambda real: lambda c, p, n: real(c, p[p >= 0], n),
        "an index of torch.bool",
    ),
    "a tensor left on the CPU": (
        internlm2,
        "rope_angles",
        lambda real: lambda c, p, n: real(c, p, n) + torch.arange(128),
        "at least two devices",
    ),
    "memory that is not pinned": (
        native,
        "send",
        lambda real: (
            lambda a, d: [torch.from_numpy(x.astype(np.int32)).to(d, non_blocking=True) for x in a]
        ),
        "waits for a copy to the device",
    ),
    "borders of 64 bits": (
        native,
        "send",
        lambda real: lambda a, d: [x.long() for x in real(a, d)],
        "int32 borders",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(
    device: FakeCuda, folder: Folder, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    where, name, change, message = PLANTED[fault]
    found = plant(device, folder, monkeypatch, where, **{name: change})
    assert re.search(message, found), found


def test_a_pack_that_has_no_room_is_found(folder: Folder) -> None:
    with FakeCuda(total_bytes=4 * GIB) as device:
        engine = device.engine(folder("7B"), prefix_cache_bytes=0)
        with pytest.raises(OutOfMemory, match="no room for a pack of 70000 tokens"):
            device.submit(engine, first(lone(70_000)))
        submit(device, engine, first(lone(300)))


def test_a_kernel_that_is_off_is_not_used(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    with FakeCuda(error=1.0) as device:
        engine = device.engine(folder("7B"))
        assert "flash_aten on torch's own flash attention is off by 1" in caplog.text
        assert "scaled_dot_product_attention" in {
            op.name for op in submit(device, engine, first(lone(300))).ops
        }
