"""What the engine gives to kernels on CUDA: as they read it, without a wait, and in bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines.fake_cuda import FakeCuda
from engines.fake_kernels import OWN, FakeKernels
from engines.workloads import group_of

from polar_ray.engine import native
from polar_ray.model import internlm2
from polar_ray.planning import pack

Folder = Callable[..., Path]


@pytest.mark.parametrize(
    ("dtype", "world_size", "adds"),
    [("bfloat16", 1, True), ("fp8", 1, False), ("bfloat16", 2, False)],
    ids=["16 bits", "8 bits", "a rank"],
)
def test_kernels_do_a_layer(
    device: FakeCuda,
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    world_size: int,
    adds: bool,
) -> None:
    kernels = FakeKernels(device)
    monkeypatch.setattr(native, "choose_steps", lambda *_, **__: kernels.steps)
    monkeypatch.setattr(native, "choose_attention", lambda *_: kernels.prepare(4))
    engine: Any = device.engine(folder("7B"), dtype=dtype, world_size=world_size, kernels=True)
    ids = group_of(40, 256, 256, 256)
    one = next(pack(ids, max_tokens=32768, prefix_lengths=[512] * len(ids)))
    for _ in range(2):  # the second time its prefix is known, where there is a cache
        before = engine.counters["tokens_computed"]
        pending, trace = device.submit(engine, one)
        assert pending.result().shape == (len(ids),)
        assert len(trace.uploads) == 1, "ids, positions and plans travel in one copy"
        # Runs of rows in the first of two layers, and the ends in the last.
        runs = -(-(engine.counters["tokens_computed"] - before) // internlm2.ROWS["cuda"])
        rounded = 4 * runs + 5 if dtype == "fp8" else 0
        assert Counter(op.name for op in trace.ops if op.name in OWN) == Counter(
            path_attention=2,
            rope=runs + 1,
            gate=runs + 1,
            add_norm=0 if adds else runs + 1,
            round_rows=rounded,
        )
        products = sum(op.name == "_scaled_mm" for op in trace.ops)
        assert products == rounded
        names = {op.name for op in trace.ops}
        assert not names & {"silu", "index_select"}, "and nothing is left to torch"
        assert ("addmm_" in names) == adds, "residuals are added by their products"
        assert all(op.flops for op in trace.ops if op.name == "addmm_")
    assert world_size > 1 or engine.cache.hits > 0
