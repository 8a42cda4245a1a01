"""What a failed operation means: less may fit, only this failed, or nothing works any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dead_device import Dead

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.failure import explain, explained, find_loss
from polar_ray.engine.native import NativeEngine
from polar_ray.errors import ConfigError, DeviceLost, EngineError, OutOfMemory
from polar_ray.planning import build_pack

PACK = build_pack([np.array([1, 2, 3], dtype=np.int32)], [-1], [0])
STICKY = [
    "CUDA error: device-side assert triggered",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: unspecified launch failure",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
]


@pytest.mark.parametrize("message", STICKY)
def test_a_device_that_computes_nothing_any_more_is_lost(message: str) -> None:
    with Dead(message):
        failure = explain(torch.AcceleratorError(f"{message}\nFor debugging"), "a pack", "cpu")
    assert isinstance(failure, DeviceLost)
    assert message in str(failure)
    assert "For debugging" not in str(failure)


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
@pytest.mark.parametrize("message", [*STICKY, "CUDA error: invalid configuration argument"])
def test_an_error_after_which_the_device_computes_is_of_this_pack(
    kind: type[RuntimeError], message: str
) -> None:
    failure = explain(kind(message), "a pack", "cpu")
    assert type(failure) is EngineError
    assert str(failure) == f"a pack failed: {message}"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
    ids=["torch", "runtime", "cublas"],
)
def test_out_of_memory_is_never_a_lost_device(error: RuntimeError) -> None:
    assert type(explain(error, "a pack", "cpu")) is OutOfMemory
    with Dead("CUDA error: out of memory"):
        assert find_loss("cpu") is None, "the probe found no room either"


def test_this_projects_own_errors_pass() -> None:
    with pytest.raises(OutOfMemory, match=r"^mine$"), explained("a pack", "cpu"):
        raise OutOfMemory("mine")


def test_an_engine_whose_device_dies_says_so_and_goes_on_saying_so(tiny_dir: Path) -> None:
    engine = NativeEngine(NativeEngineConfig(device="cpu"), tiny_dir)
    pending = engine.submit(PACK)
    with Dead():
        with pytest.raises(DeviceLost, match=r"cpu is lost.*a pack of 3 tokens failed"):
            pending.result()
        with pytest.raises(DeviceLost, match="device-side assert"):
            engine.submit(PACK)


def test_a_model_that_cannot_be_loaded_for_want_of_memory_is_said(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("polar_ray.engine.native.quantize", full)
    with pytest.raises(OutOfMemory, match=f"no room for loading {tiny_dir}"):
        NativeEngine(NativeEngineConfig(device="cpu", dtype="int8"), tiny_dir)


def test_what_does_not_fit_makes_room(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = NativeEngineConfig(device="cpu", prefix_cache_bytes=1 << 20)
    engine = NativeEngine(config, tiny_dir)
    records = [np.array([1, 2, 3, n], dtype=np.int32) for n in (4, 5)]
    pack = build_pack(records, [-1, -1], [0, 1])
    expected = engine.submit(pack).result()

    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_run", full)
        with pytest.raises(OutOfMemory, match="no room for a pack of 8 tokens"):
            engine.submit(pack)
    assert engine.cache is not None
    assert len(engine.cache) == 0
    np.testing.assert_allclose(engine.submit(pack).result(), expected, atol=1e-5)


def test_a_wrong_setting_is_no_lost_device() -> None:
    with pytest.raises(ConfigError), explained("loading", "cpu"):
        raise ConfigError("no such thing")
