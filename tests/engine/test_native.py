"""The native engine: choice of device and dtype, and an independent implementation's scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from products import PRODUCTS, products_by

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.device import choose_device, choose_dtype
from polar_ray.engine.native import NativeEngine
from polar_ray.errors import ConfigError, EngineError
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
