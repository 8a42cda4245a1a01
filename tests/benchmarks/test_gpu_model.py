"""The model of a GPU's time, and this project's kernels on a device that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import gpu_model
import pytest
import torch
from engines.checkpoint import SHAPES
from engines.fake_cuda import FLASH, FakeCuda, Op
from engines.fake_kernels import give_kernels
from engines.made import config_alone
from engines.refusals import Fault
from engines.workloads import group_of

from polar_ray.model.varlen import plan_runs
from polar_ray.planning import pack
from polar_ray.planning.cost import Shape, cost

[ONE] = pack(group_of(16, 256, 256, 256), max_tokens=32768)


def test_products_are_those_that_the_plan_has() -> None:
    folder_shape = SHAPES["1.8B"]
    shape = Shape(**{name: folder_shape[name] for name in Shape.__slots__})
    runs, _ = plan_runs(ONE.spans, ONE.ends.tolist(), {})
    planned = cost(shape, ONE)
    # Tiles hold the pairs that are masked, too.
    pairs = gpu_model.tile_pairs(runs, 128)
    assert planned.attention < 4 * 2048 * pairs * 24 < 2 * planned.attention
    assert gpu_model.tile_pairs(runs, 64) < pairs


def test_both_ways_compute_what_the_plan_has(tmp_path: Path) -> None:
    folder = config_alone(tmp_path / "1.8B", "1.8B")
    shape = Shape(**{name: SHAPES["1.8B"][name] for name in Shape.__slots__})
    for own in (False, True):
        with FakeCuda() as device:
            engine = device.engine(folder, kernels=False, prefix_cache_bytes=0)
            if own:
                give_kernels(device, engine, 2)
            _, trace = device.submit(engine, ONE)
        done = sum(op.flops for op in trace.ops)
        assert done == pytest.approx(cost(shape, ONE).linear, rel=0.001)
        names = {op.name for op in trace.ops}
        assert own == ("path_attention" in names) == names.isdisjoint(FLASH)


def test_a_wrong_plan_for_the_path_kernel_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polar_ray.engine import native

    real = native.send
    monkeypatch.setattr(native, "send", lambda a, d: [x.long() for x in real(a, d)])
    with FakeCuda() as device:
        folder = config_alone(tmp_path / "2", "7B", num_hidden_layers=2)
        engine = device.engine(folder, kernels=False, prefix_cache_bytes=0)
        give_kernels(device, engine, 4)
        with pytest.raises(Fault, match="contiguous int32"):
            device.submit(engine, ONE)


def test_each_kind_of_kernel_has_its_rate() -> None:
    rates = gpu_model.Rates(gap=0.0)
    ops = [
        Op("linear", ((2, 3),), 8, int(7e12)),
        Op("cat", (), int(3e12), 0),
        Op("silu", (), int(3.8e12), 0),
        Op("path_attention", (), int(1.8e12), 0),
    ]
    found = gpu_model.times(ops, 370e12, 2, rates)
    assert found == pytest.approx(
        {"products": 0.01, "copies": 1.0, "steps": 1.0, "attention": 2.0, "gaps": 0.0}
    )


def test_the_table_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.json"
    line = f"--shapes tiny --workloads W4 --max-tokens 4096 --out {out}"
    gpu_model.main(line.split())
    found = json.loads(out.read_text())
    assert list(found) == [f"tiny W4, {way}" for way in gpu_model.WAYS]
    assert "modelled, not measured" in capsys.readouterr().out
    for row in found.values():
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert 0 < row["share_of_products"] < 1


def test_the_device_is_left_as_it_was() -> None:
    with FakeCuda():
        assert torch.cuda.is_available()
    assert torch.zeros(3)[1].item() == 0.0
