"""Which kernels are chosen: right and faster ones alone, whatever the device says."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from varlen_plain import plain as plain_varlen

from polar_ray.config import NativeEngineConfig
from polar_ray.engine import native
from polar_ray.engine.native import NativeEngine
from polar_ray.model import ModelConfig, attention_choice, load_config
from polar_ray.model.attention_choice import choose_attention
from polar_ray.model.choice import Call, Trial, choose, error
from polar_ray.model.paths import Prepare, blocked, by_varlen
from polar_ray.model.step_choice import choose_steps
from polar_ray.model.steps import PLAIN, Steps, add_norm, gate, rope

F32 = torch.float32


@pytest.mark.parametrize(
    ("kernels", "chosen"),
    [
        ({}, None),
        ({"a": Trial(0.0, 0.5)}, "a"),
        ({"a": Trial(0.0, 1.0)}, None),
        ({"a": Trial(0.0, 0.97)}, None),
        ({"a": Trial(2e-5, 0.5)}, None),
        ({"a": Trial(float("nan"), 0.5)}, None),
        ({"a": Trial(0.0, 0.5), "b": Trial(0.0, 0.4), "c": Trial(1.0, 0.1)}, "b"),
    ],
    ids=["none", "faster", "as fast", "hardly faster", "wrong", "nan", "the fastest right one"],
)
def test_a_kernel_is_right_and_faster(kernels: dict[str, Trial], chosen: str | None) -> None:
    assert choose(1.0, kernels, F32) == chosen


def test_16_bits_are_rounded() -> None:
    kernels = {"a": Trial(0.004, 0.5)}
    assert choose(1.0, kernels, torch.bfloat16) == choose(1.0, kernels, torch.float16) == "a"
    assert choose(1.0, kernels, F32) is None


def test_an_error_is_a_share_and_a_nan_stays_one() -> None:
    exact = [torch.tensor([1.0, -4.0]), torch.tensor([1.0])]
    assert error([torch.tensor([1.0, -3.0]), torch.tensor([1.0])], exact) == 0.25
    assert np.isnan(error([torch.tensor([1.0, torch.nan]), torch.tensor([1.0])], exact))


class Counted:
    """A clock by which what is called `fast` takes half as long as all else."""

    def __init__(self, *fast: str) -> None:
        self.fast = fast

    def __call__(self, call: Call) -> float:
        Counted.last = ""
        call()
        return 0.5 if Counted.last in self.fast else 1.0

    last = ""


def offered(name: str, step: object) -> object:
    """`step`, which says its name to the clock."""

    def run(*args: object) -> object:
        Counted.last = name
        assert callable(step)
        return step(*args)

    return run


def all_right() -> Steps:
    return Steps(
        **{name: offered(name, step) for name, step in PLAIN._asdict().items()}  # type: ignore[arg-type]
    )


@pytest.fixture
def config(tiny_dir: Path) -> ModelConfig:
    return load_config(tiny_dir)


@pytest.mark.parametrize("dtype", [F32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2])
def test_each_step_is_chosen_by_itself(
    config: ModelConfig, size: int, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = all_right()
    with caplog.at_level(logging.INFO):
        chosen = choose_steps(
            config, "cpu", dtype, size, kernels=lambda: kernels, clock=Counted("gate", "rope")
        )
    assert chosen == Steps(add_norm, kernels.gate, kernels.rope)
    [line] = caplog.messages
    assert "add_norm by torch (torch 1000000 us, add_norm 1000000 us)" in line
    assert "gate by a kernel (torch 1000000 us, gate 500000 us)" in line


@pytest.mark.parametrize("in_fp8", [True, False])
def test_rounding_is_tried_where_products_are_in_float8(config: ModelConfig, in_fp8: bool) -> None:
    kernels, clock = all_right(), Counted("round_rows")
    chosen = choose_steps(config, "cpu", F32, in_fp8=in_fp8, kernels=lambda: kernels, clock=clock)
    assert chosen == (PLAIN._replace(round_rows=kernels.round_rows) if in_fp8 else PLAIN)


def test_rounding_to_wrong_places_is_left_out(config: ModelConfig) -> None:
    def wrong(x_TI: Tensor) -> tuple[Tensor, Tensor]:
        rounded_TI, scale_T1 = PLAIN.round_rows(x_TI)
        return rounded_TI.roll(3, dims=-1), scale_T1

    kernels = all_right()._replace(round_rows=offered("round_rows", wrong))  # type: ignore[arg-type]
    clock = Counted("round_rows")
    chosen = choose_steps(config, "cpu", F32, in_fp8=True, kernels=lambda: kernels, clock=clock)
    assert chosen == PLAIN


def test_what_raises_or_is_wrong_is_left_out_by_name(
    config: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    def raises(*args: object) -> Tensor:
        raise RuntimeError("no such instruction")

    def wrong(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        return gate(up_TF, gate_TF)

    kernels = Steps(offered("add_norm", raises), offered("gate", wrong), offered("rope", rope))  # type: ignore[arg-type]
    clock = Counted("add_norm", "gate", "rope")
    chosen = choose_steps(config, "cpu", F32, kernels=lambda: kernels, clock=clock)
    assert chosen == Steps(add_norm, gate, kernels.rope)
    first, second = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert first == "the kernel add_norm does not run here and is left out: no such instruction"
    assert second.startswith("the kernel gate is off by ")


def test_without_triton_all_is_torchs(
    config: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*args: object) -> Steps:
        raise ImportError("No module named 'triton'")

    assert choose_steps(config, "cpu", F32, kernels=missing) is PLAIN
    found = choose_attention(config, "cpu", F32, 1, blocked, kernels=missing)  # type: ignore[arg-type]
    assert found is blocked
    assert all("No module named 'triton'" in line for line in caplog.messages)
    assert len(caplog.messages) == 2


def test_attention_is_chosen_in_the_same_way(
    config: ModelConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_choice, "TIMED_SPANS", ((0, 30, -1), (30, 40, 0)))

    def named(name: str, wrong: bool = False) -> Prepare:
        def varlen(q: Tensor, k: Tensor, *rest: object) -> Tensor:
            Counted.last = name
            return plain_varlen(q, -k if wrong else k, *rest)  # type: ignore[arg-type]

        return by_varlen(varlen)

    def find(*fast: str) -> Prepare:
        return choose_attention(
            config, "cpu", F32, 1, blocked, kernels=lambda group: kernels, clock=Counted(*fast)
        )

    kernels = {"right": named("right"), "wrong": named("wrong", wrong=True)}
    assert find() is blocked
    assert find("wrong") is blocked
    assert find("right", "wrong") is kernels["right"]
    assert "the kernel wrong is off by" in caplog.text


def test_a_cpu_never_uses_them(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(*args: object) -> None:
        raise AssertionError("a CPU tries no kernels")

    monkeypatch.setattr(native, "choose_steps", chosen)
    monkeypatch.setattr(native, "choose_attention", chosen)
    engine = NativeEngine(NativeEngineConfig(device="cpu", kernels=True), tiny_dir)
    assert engine.model.steps is PLAIN
    assert engine._prepare is blocked
