"""The native engine: choice of device and dtype, and an independent implementation's scores."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from products import PRODUCTS, products_by

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.device import choose_device, choose_dtype
from polar_ray.engine.native import NativeEngine
from polar_ray.errors import ConfigError, DeviceLost, EngineError
from polar_ray.planning import build_pack
from polar_ray.verify.reference import LlamaReference


def test_a_cpu_scores_in_float32_whatever_the_checkpoint() -> None:
    assert choose_dtype("auto", "cpu") is torch.float32
    assert choose_dtype("auto", "cuda") is torch.bfloat16
    assert choose_dtype("float16", "cuda") is torch.float16


def test_a_missing_device_is_a_clear_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="sees no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto") == "cpu"


@pytest.mark.parametrize("product", PRODUCTS)
def test_scores_equal_transformers_llama_on_the_same_weights(tiny_dir: Path, product: str) -> None:
    # InternLM2 is Llama with a fused projection: an implementation that we did not write.
    random = np.random.default_rng(0)
    records = [random.integers(5, 400, n).astype(np.int32) for n in (3, 40, 200)]
    with products_by(product):
        engine = NativeEngine(NativeEngineConfig(device="cpu"), tiny_dir)
    found = engine.submit(build_pack(records, [-1] * 3, range(3))).result()
    expected = LlamaReference(tiny_dir).score(records)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_failing_forward_is_an_engine_error(tiny_dir: Path) -> None:
    engine = NativeEngine(NativeEngineConfig(device="cpu"), tiny_dir)
    engine.model.v_head.weight = torch.nn.Parameter(torch.zeros(1, 5))
    with pytest.raises(EngineError, match="a pack of 3 tokens failed"):
        engine.submit(build_pack([np.array([1, 2, 3], dtype=np.int32)], [-1], [0]))


@pytest.mark.parametrize("number", [400, -1, 2**31 - 1])
def test_ids_beyond_the_vocabulary_are_an_engine_error(tiny_dir: Path, number: int) -> None:
    engine = NativeEngine(NativeEngineConfig(device="cpu"), tiny_dir)
    ids = np.array([5, number, 6], dtype=np.int32)
    with pytest.raises(EngineError, match="token ids beyond the vocabulary"):
        engine.submit(build_pack([ids], [-1], [0]))


def test_an_engine_may_be_closed_twice(tiny_dir: Path) -> None:
    engine = NativeEngine(NativeEngineConfig(device="cpu"), tiny_dir)
    engine.close()
    engine.close()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_weights_that_were_written_over_are_not_scored_with(tmp_path: Path, dtype: str) -> None:
    used, other = (make_checkpoint(tmp_path / str(n), seed=n) for n in (1, 2))
    engine = NativeEngine(NativeEngineConfig(device="cpu", dtype=dtype), used)
    one = build_pack([np.array([5, 6, 7], dtype=np.int32)], [-1], [0])
    engine.submit(one).result()
    pending = engine.submit(one)
    os.utime(used / "model.safetensors", ns=(0, 0))  # as copying with times does
    with (used / "model.safetensors").open("r+b") as file:
        file.write((other / "model.safetensors").read_bytes())
    with pytest.raises(DeviceLost, match=r"model\.safetensors was written to while"):
        pending.result()


def test_weights_that_give_way_to_others_stay(tmp_path: Path) -> None:
    used, other = (make_checkpoint(tmp_path / str(n), seed=n) for n in (1, 2))
    engine = NativeEngine(NativeEngineConfig(device="cpu"), used)
    one = build_pack([np.array([5, 6, 7], dtype=np.int32)], [-1], [0])
    before = engine.submit(one).result()
    os.replace(other / "model.safetensors", used / "model.safetensors")
    assert engine.submit(one).result() == before


def test_a_copy_may_be_written_over(tmp_path: Path) -> None:
    used = make_checkpoint(tmp_path / "model", seed=1)
    engine = NativeEngine(NativeEngineConfig(device="cpu", dtype="bfloat16"), used)
    one = build_pack([np.array([5, 6, 7], dtype=np.int32)], [-1], [0])
    before = engine.submit(one).result()
    (used / "model.safetensors").write_bytes(b"")
    assert engine.submit(one).result() == before


@pytest.mark.gpu
def test_cuda_scores_are_close_to_the_cpus(tiny_dir: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    records = [np.arange(5, 5 + n, dtype=np.int32) for n in (10, 100, 300)]
    one = build_pack(records, [-1] * 3, range(3))
    cpu = NativeEngine(NativeEngineConfig(device="cpu"), tiny_dir).submit(one).result()
    cuda = (
        NativeEngine(NativeEngineConfig(device="cuda", dtype="float32"), tiny_dir)
        .submit(one)
        .result()
    )
    np.testing.assert_allclose(cuda, cpu, atol=1e-3)
