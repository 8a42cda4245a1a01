"""What a GPU is taken to do, against what its kernels would take one by one, on paper."""

from __future__ import annotations

from typing import Any

import pytest

from polar_ray.capacity import DEVICES, Load, device_named
from polar_ray.capacity.speed import WIDE, group_cost, records_per_s
from polar_ray.config import DTypeName
from polar_ray.errors import ConfigError
from polar_ray.model import ModelConfig
from polar_ray.verify.published import POLAR

W1 = Load(1, prompt=256, reference=256, output=256, group=16)
H200 = DEVICES["H200"]


def polar(name: str, **changes: Any) -> ModelConfig:
    return ModelConfig(**{"max_position_embeddings": 32768, **POLAR[name], **changes})


@pytest.mark.parametrize(
    ("name", "dtype", "tokens_per_s"),
    [
        ("POLAR-7B", "bfloat16", 45_600),
        ("POLAR-7B", "fp8", 71_200),
        ("POLAR-1_8B", "bfloat16", 189_400),
        ("POLAR-1_8B", "fp8", 264_900),
    ],
)
def test_it_is_near_the_model_of_every_kernel(
    name: str, dtype: DTypeName, tokens_per_s: float
) -> None:
    """The figures of `benchmarks/gpu_model.py` in benchmarks/README.md."""
    found = records_per_s(polar(name), W1, H200, dtype, 1)
    assert found * (W1.prefix / W1.group + W1.own) == pytest.approx(tokens_per_s, rel=0.1)


def test_the_prefix_is_that_of_the_benchmarks() -> None:
    assert (W1.prefix, W1.own, W1.tokens) == (771, 257, 1028)


def test_a_group_costs_its_prefix_once() -> None:
    config = polar("POLAR-1_8B")
    alone = group_cost(config, Load(1, 256, 256, 256, group=1)).flops
    assert alone * 16 / group_cost(config, W1).flops == pytest.approx(3.30, rel=0.02)


def test_several_gpus_are_less_than_their_sum() -> None:
    config = polar("POLAR-7B")
    one, four = (records_per_s(config, W1, H200, "auto", width) for width in (1, 4))
    assert four == pytest.approx(4 * WIDE * one)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_dtype_of_no_known_speed_is_refused(dtype: DTypeName) -> None:
    with pytest.raises(ConfigError, match=dtype):
        H200.products(dtype)


def test_a_gpu_without_float8_is_refused() -> None:
    with pytest.raises(ConfigError, match="fp8 does not run on A100"):
        device_named("a100").products("fp8")


def test_an_unknown_gpu_says_which_there_are() -> None:
    with pytest.raises(ConfigError, match="H100, H200"):
        device_named("H2000")
