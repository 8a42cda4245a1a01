"""Which flash attention is used, where some of what is installed does not work."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import attention
from varlen_plain import plain

from polar_ray.model.flash import CANDIDATES, find_varlen
from polar_ray.model.varlen import Varlen

varlen = pytest.importorskip("torch.nn.attention.varlen")  # torch >= 2.10
HEADS: Any = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8}


class Overrides:
    """torch's registry of implementations."""

    def __init__(self, installed: set[str]) -> None:
        self.installed = installed
        self.active: str | None = None

    def activate(self, name: str) -> None:
        if name not in self.installed:
            raise ImportError(name)
        self.active = name

    def restore(self) -> None:
        self.active = None


@pytest.fixture
def overrides(monkeypatch: pytest.MonkeyPatch) -> Overrides:
    one = Overrides({"FA4", "FA3"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention, "activate_flash_attention_impl", one.activate, raising=False)
    monkeypatch.setattr(attention, "restore_flash_attention_impl", one.restore, raising=False)
    current = "current_flash_attention_impl"
    monkeypatch.setattr(attention, current, lambda: one.active, raising=False)
    return one


def find(*candidates: Varlen) -> Varlen | None:
    return find_varlen("cpu", torch.float32, **HEADS, candidates=candidates or CANDIDATES)


def right_with(overrides: Overrides, *working: str | None) -> Varlen:
    def by_override(*args: Any) -> Tensor:
        if overrides.active not in working:
            raise RuntimeError("no kernel image is available for execution on the device")
        return plain(*args)

    return by_override


@pytest.mark.parametrize("working", ["FA4", "FA3", None])
def test_what_is_broken_gives_way_to_what_is_older(
    overrides: Overrides, caplog: pytest.LogCaptureFixture, working: str | None
) -> None:
    candidate = right_with(overrides, working)
    assert find(candidate) is candidate
    assert overrides.active == working
    broken = {"FA4": [], "FA3": ["FA4"], None: ["FA4", "FA3"]}[working]
    assert [r.message.split()[0] for r in caplog.records if r.levelname == "WARNING"] == broken


def test_the_newest_that_works_is_used(overrides: Overrides) -> None:
    overrides.installed = {"FA3"}
    assert find(right_with(overrides, "FA3", None)) is not None
    assert overrides.active == "FA3"


def test_no_flash_attention_at_all_is_said(
    overrides: Overrides, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert find(right_with(overrides)) is None
    assert overrides.active is None
    assert "no flash attention works here (cpu, float32, 4 and 2 heads of 8)" in caplog.text


# The entry point of one version after the other: how each asks for causal attention.


def of_2_10(*args: Any, is_causal: bool = False, return_aux: Any = None) -> Tensor:
    assert is_causal
    return plain(*args)


def of_2_11(*args: Any, return_aux: Any = None, window_size: Any = (-1, -1)) -> Tensor:
    assert window_size == (-1, 0)
    return plain(*args)


def of_2_12(*args: Any, window_size: Any = (-1, -1), enable_gqa: bool = False) -> Tensor:
    assert window_size == (-1, 0)
    if not enable_gqa:
        raise ValueError("Try setting enable_gqa=True for GQA.")
    return plain(*args)


@pytest.mark.parametrize(
    ("entry", "name"),
    [(of_2_10, "flash_causal"), (of_2_11, "flash_window_alone"), (of_2_12, "flash_window")],
)
def test_every_version_of_the_entry_point_is_known(
    monkeypatch: pytest.MonkeyPatch, entry: Any, name: str
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", entry)
    found = find()
    assert found is not None
    assert found.__name__ == name  # type: ignore[attr-defined]
