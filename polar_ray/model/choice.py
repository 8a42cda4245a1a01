"""The choice between a kernel and what it would replace, from a trial of both on the device.

A kernel is taken only where it computes rightly and is faster; one that raises is left out, with a
warning that names it. `step_choice` and `attention_choice` say what is tried.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

MARGIN = 1.05
"""How many times faster a kernel must be, so that the trials of like devices end alike."""

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.005}
"""Largest error of a kernel, as a share of the largest value that is right."""

RUNS, REPEATS = 3, 20
"""Of a call that is timed: the least of so many averages, each over so many calls."""

Call = Callable[[], object]
Clock = Callable[[Call], float]
"""Seconds that a call takes a device."""


class Trial(NamedTuple):
    """What an implementation was seen to do."""

    error: float
    """As a share of the largest value that is right."""

    seconds: float


def choose(reference_s: float, kernels: Mapping[str, Trial], dtype: torch.dtype) -> str | None:
    """The fastest of the kernels that are right, if it is faster by `MARGIN` than what it would
    replace. Warns of those that are wrong."""
    right = {name: trial for name, trial in kernels.items() if trial.error <= TOLERANCES[dtype]}
    for name in kernels.keys() - right.keys():
        logger.warning("the kernel %s is off by %.3g and is left out", name, kernels[name].error)
    fastest = min(right, key=lambda name: right[name].seconds, default=None)
    if fastest is None or right[fastest].seconds * MARGIN > reference_s:
        return None
    return fastest


def try_all(trials: Mapping[str, Callable[[], Trial]]) -> dict[str, Trial]:
    """The trials of kernels by their names, but for those that raise."""
    seen = {}
    for name, trial in trials.items():
        try:
            seen[name] = trial()
        except Exception as refusal:  # compilers and drivers raise what they like
            logger.warning("the kernel %s does not run here and is left out: %s", name, refusal)
    return seen


def describe(reference_s: float, kernels: Mapping[str, Trial]) -> str:
    """The times of a trial, for the log."""
    times = [f"{name} {trial.seconds * 1e6:.0f} us" for name, trial in kernels.items()]
    return ", ".join([f"torch {reference_s * 1e6:.0f} us", *times])


def error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest difference, as a share of the largest value of `exact`; NaN where one is."""
    pairs = zip(found, exact, strict=True)
    off = [((one.float() - right).abs().max() / right.abs().max()) for one, right in pairs]
    return float(torch.stack(off).max())


def cuda_seconds(call: Call) -> float:
    """Seconds of a call on the current CUDA device, without what its first run takes."""
    call()
    least = float("inf")
    for _ in range(RUNS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(REPEATS):
            call()
        stop.record()
        stop.synchronize()
        least = min(least, start.elapsed_time(stop) / 1e3 / REPEATS)
    return least


class Inputs:
    """Random tensors for a trial: the same numbers in a dtype, or in float32 for what is right."""

    def __init__(self, device: str, dtype: torch.dtype, *, exact: bool = False) -> None:
        self.device, self.dtype, self.exact = device, dtype, exact
        self._random = torch.Generator().manual_seed(0)

    def randn(self, *shape: int) -> Tensor:
        """Of the dtype's precision."""
        numbers = torch.randn(*shape, generator=self._random).to(self.device, self.dtype)
        return numbers.float() if self.exact else numbers
