"""How a pack's attention comes to the device: what is planned on the host, and the attention once
that has been sent. One function for each way in which a device can compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from polar_ray.model.attention import BlockedAttention, PathAttention, Recall, SpanTuple
from polar_ray.model.tiled import Tiled, TiledAttention, plan_tiles
from polar_ray.model.transfer import Integers
from polar_ray.model.varlen import Varlen, VarlenAttention, plan_runs


class Prepared(NamedTuple):
    """The attention of one pack, still on the host."""

    arrays: Sequence[Integers]
    """To be sent to the device."""

    attention: Callable[[Sequence[Tensor]], PathAttention]
    """Of the arrays as int32 on the device, in order."""


Prepare = Callable[[Sequence[SpanTuple], Sequence[int], Recall], Prepared]
"""Of a pack's spans, the ends of its records, and what is known from earlier packs."""


def blocked(spans: Sequence[SpanTuple], ends: Sequence[int], recall: Recall) -> Prepared:
    """On any device."""
    return Prepared([], lambda _: BlockedAttention(spans, ends, recall))


def by_varlen(varlen: Varlen) -> Prepare:
    """By a variable-length kernel over gathered keys."""

    def prepare(spans: Sequence[SpanTuple], ends: Sequence[int], recall: Recall) -> Prepared:
        runs = plan_runs(spans, ends, recall.known_sizes)
        arrays = [array for each in runs for array in each.arrays]
        return Prepared(arrays, lambda sent: VarlenAttention(varlen, runs, sent, recall))

    return prepare


class TiledKernel(NamedTuple):
    """A kernel with the size of its tiles."""

    run: Tiled
    rows: int


def by_tiles(all_tokens: TiledKernel, ends_alone: TiledKernel, group: int) -> Prepare:
    """By kernels that read keys in place, for `group` query heads to a key/value head."""
    kernels = all_tokens, ends_alone

    def prepare(spans: Sequence[SpanTuple], ends: Sequence[int], recall: Recall) -> Prepared:
        arrays: list[Integers] = []
        for runs, kernel in zip(plan_runs(spans, ends, recall.known_sizes), kernels, strict=True):
            arrays += [*runs.arrays, *plan_tiles(runs, group, kernel.rows).arrays]
        run, run_ends = (kernel.run for kernel in kernels)
        return Prepared(arrays, lambda sent: TiledAttention(run, run_ends, sent, recall))

    return prepare
