"""The linear maps of a model that scores on a CPU: by torch's own product, or by oneDNN's.

torch multiplies float32 with MKL, which leaves AMD's AVX-512 unused. oneDNN, in the same torch,
does not: it is up to 2.3 times as fast there, and slower on CPUs with AVX2 alone. So both are tried
on the machine at hand. oneDNN's weights are packed into its own layout once, and the plain ones are
dropped. Knows nothing of quantized layers, and of training only that it needs plain weights.

Scores by one product and by the other differ by some 4e-6, as sums are added in another order:
within the 1e-5 to which a score is the same wherever it is computed, also by two replicas whose
trials ended differently. A process decides once for each shape: a model that it loads again gives
the same scores.

Shape suffixes: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polar_ray.model.internlm2 import ROWS, RewardModel

MARGIN = 1.05
"""How many times faster oneDNN must be, so that trials on one machine end alike and nothing is
packed for nothing: plain float32 weights are mapped from their file, which processes share."""

LEAST_WEIGHTS = 1 << 19
"""Of a map that is tried. Smaller ones are torch's: there is little to gain, and by trials that end
as chance has it two processes would give other last digits."""

TRIAL_ROWS = 256
TRIAL_OUTPUTS = 512
"""Of a wider map so many are tried: as fast as all, and a fraction of a second for POLAR-7B."""

TRIAL_RUNS = 12
"""Of each product, in turns. The first one wakes threads and chooses kernels; the best counts."""

TRIAL_S = 1e-3
"""Of a run at least: a product that takes less is repeated within it."""

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.005}
"""Largest difference between the products, relative and by norm. Other dtypes are torch's."""


class OneDNN(NamedTuple):
    """Two operators of torch, from 2.9 to 2.13, which its documentation does not have."""

    linear: Callable[..., Tensor]
    reorder: Callable[..., Tensor]

    def pack(self, weight_OI: Tensor) -> Tensor:
        """A copy in oneDNN's layout: opaque, padded to whole blocks, fit for any number of rows."""
        return self.reorder(weight_OI.detach().contiguous(), ROWS["cpu"])

    def multiply(self, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """[T, O], for a packed weight or a plain one."""
        return self.linear(x_TI, weight_OI, bias_O, "none", [], "")


def find_onednn() -> OneDNN | None:
    """None where torch has no oneDNN, lacks an operator, or is told to do without it."""
    try:
        operators = torch.ops.mkldnn
        found = OneDNN(operators._linear_pointwise, operators._reorder_linear_weight)
    except AttributeError:
        return None
    return found if torch.backends.mkldnn.enabled else None


class PackedLinear(nn.Module):
    """An `nn.Linear` whose weight is in oneDNN's layout alone: it can neither be trained nor saved
    nor moved."""

    def __init__(self, linear: nn.Linear, onednn: OneDNN) -> None:
        super().__init__()
        self.onednn = onednn
        self.packed_OI = onednn.pack(linear.weight)
        self.bias_O = linear.bias

    def forward(self, x_TI: Tensor) -> Tensor:
        """[T, O]"""
        return self.onednn.multiply(x_TI, self.packed_OI, self.bias_O)


def pack_linears(model: RewardModel) -> str:
    """Packs, in place, the layers whose products oneDNN computes faster here: one at a time, so
    that no second copy of the model is ever whole. Returns what was found, for people."""
    found: dict[str, None] = {}
    for block in model.model.blocks:
        for parent in (block.attention, block.feed_forward):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    choice = choose(child)
                    found[choice.words] = None
                    if choice.onednn is not None:
                        setattr(parent, name, PackedLinear(child, choice.onednn))
    return "; ".join(found)


class Choice(NamedTuple):
    """By what the maps of a shape are computed: None is torch's own product."""

    onednn: OneDNN | None
    words: str


def choose(linear: nn.Linear) -> Choice:
    """The faster product for weights of that shape, with as many threads as torch has now."""
    onednn, dtype = find_onednn(), linear.weight.dtype
    if onednn is None or dtype not in TOLERANCES:
        return Choice(None, "by torch alone")
    if linear.weight.numel() < LEAST_WEIGHTS:
        return Choice(None, "small ones by torch")
    outputs = min(linear.out_features, TRIAL_OUTPUTS)
    return _tried(onednn, outputs, linear.in_features, dtype, torch.get_num_threads())


@lru_cache(maxsize=1024)
def _tried(
    onednn: OneDNN, outputs: int, inputs: int, dtype: torch.dtype, num_threads: int
) -> Choice:
    # The number of threads is a part of the key alone: by it, another product may be the faster.
    where = f"{inputs} to {outputs} in {str(dtype).removeprefix('torch.')}"
    try:
        by_torch, by_onednn = trial(onednn, outputs, inputs, dtype)
    except (RuntimeError, TypeError, ValueError) as refusal:
        return Choice(None, f"{where} by torch alone (oneDNN: {refusal!s:.100})")
    rates = f"torch {by_torch / 1e9:.0f} GFLOP/s, oneDNN {by_onednn / 1e9:.0f}"
    pack = worth_packing(by_torch, by_onednn)
    return Choice(onednn if pack else None, f"{where} by {'oneDNN' if pack else 'torch'} ({rates})")


def worth_packing(by_torch: float, by_onednn: float) -> bool:
    """Whether oneDNN is the one to take, from operations a second by each."""
    return by_onednn > by_torch * MARGIN


@torch.inference_mode()
def trial(onednn: OneDNN, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[float, float]:
    """Operations a second of torch's product and of oneDNN's; `ValueError` if they disagree."""
    random = torch.Generator().manual_seed(0)
    x_TI, weight_OI = (
        torch.randn(rows, inputs, generator=random).to(dtype) for rows in (TRIAL_ROWS, outputs)
    )
    products = [
        partial(F.linear, x_TI, weight_OI),
        partial(onednn.multiply, x_TI, onednn.pack(weight_OI)),
    ]
    torchs_TO, onednns_TO = (product().float() for product in products)
    off = float((onednns_TO - torchs_TO).norm() / torchs_TO.norm())
    if not off <= TOLERANCES[dtype]:
        raise ValueError(f"its products are off by {off:.3g}")
    operations = 2 * TRIAL_ROWS * outputs * inputs
    by_torch, by_onednn = (operations / seconds for seconds in time_in_turns(products))
    return by_torch, by_onednn


def time_in_turns(
    products: Sequence[Callable[[], object]], clock: Callable[[], float] = time.thread_time
) -> list[float]:
    """Seconds of each. CPU time of this thread is what neighbours and other threads of the process
    disturb least; all threads of a product work equally long."""
    best = [float("inf")] * len(products)
    for _ in range(TRIAL_RUNS):
        for number, product in enumerate(products):
            calls, started = 0, clock()
            while (passed := clock() - started) < TRIAL_S or not calls:
                product()
                calls += 1
            best[number] = min(best[number], passed / calls)
    return best
