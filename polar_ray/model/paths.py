"""How a pack's attention comes to the device: what is planned on the host, and the attention once
that has been sent. One function for each way in which a device can compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from polar_ray.model.attention import BlockedAttention, PathAttention, Recall, SpanTuple
from polar_ray.model.tiled import Tiled, TiledAttention, pad_tiles, plan_tiles
from polar_ray.model.transfer import Integers
from polar_ray.model.varlen import Runs, Varlen, VarlenAttention, pad_runs, plan_runs


class Prepared(NamedTuple):
    """The attention of one pack, still on the host."""

    arrays: Sequence[Integers]
    """To be sent to the device."""

    attention: Callable[[Sequence[Tensor]], PathAttention]
    """Of the arrays as int32 on the device, in order."""


class Room(NamedTuple):
    """How much arrays of a fixed size hold, for all tokens and for the ends alone: see
    `polar_ray.engine.graphs`."""

    num_runs: int
    num_keys: int


class Prepare(Protocol):
    """Plans the attention of a pack."""

    def __call__(
        self,
        spans: Sequence[SpanTuple],
        ends: Sequence[int],
        recall: Recall,
        room: Room | None = None,
    ) -> Prepared:
        """Of a pack's spans, the ends of its records, and what is known from earlier packs. With
        `room`, the arrays of all packs of as many tokens and ends have the same sizes; raises
        `ValueError` for a pack that has no room in them."""
        ...


def blocked(
    spans: Sequence[SpanTuple], ends: Sequence[int], recall: Recall, room: Room | None = None
) -> Prepared:
    """On any device; with no arrays, so that it cannot be in a graph."""
    return Prepared([], lambda _: BlockedAttention(spans, ends, recall))


def by_varlen(varlen: Varlen) -> Prepare:
    """By a variable-length kernel over gathered keys."""

    def prepare(
        spans: Sequence[SpanTuple],
        ends: Sequence[int],
        recall: Recall,
        room: Room | None = None,
    ) -> Prepared:
        runs = _plan(spans, ends, recall, room)
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

    def prepare(
        spans: Sequence[SpanTuple],
        ends: Sequence[int],
        recall: Recall,
        room: Room | None = None,
    ) -> Prepared:
        arrays: list[Integers] = []
        for runs, kernel in zip(_plan(spans, ends, recall, room), kernels, strict=True):
            tiles = plan_tiles(runs, group, kernel.rows)
            if room is not None:
                tiles = pad_tiles(tiles, runs, group, kernel.rows)
            arrays += [*runs.arrays, *tiles.arrays]
        run, run_ends = (kernel.run for kernel in kernels)
        return Prepared(arrays, lambda sent: TiledAttention(run, run_ends, sent, recall))

    return prepare


def _plan(
    spans: Sequence[SpanTuple], ends: Sequence[int], recall: Recall, room: Room | None
) -> tuple[Runs, Runs]:
    all_runs, end_runs = plan_runs(spans, ends, recall.known_sizes)
    if room is None:
        return all_runs, end_runs
    return (
        pad_runs(all_runs, room.num_runs, room.num_keys),
        pad_runs(end_runs, len(ends), room.num_keys),
    )
