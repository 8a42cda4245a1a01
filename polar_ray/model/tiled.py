"""Path attention by tiles: what the kernel of `polar_ray.model.kernels.path_attention` is given.

A tile is a stretch of one run's rows, and a row one query head of a key/value head within one
query, so that a tile's rows share their keys. Plans on the host which tiles there are.

Shape suffixes: T packed tokens, C places of K and V, X queries of one call, R records, N query
heads, K key/value heads, H head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from polar_ray.model.attention import Recall
from polar_ray.model.varlen import Numbers, Runs

Tiled = Callable[..., Tensor]
"""(q_XNH, k_CKH, v_CKH, and as int32 the places of keys, the borders of queries and of keys, the
runs and the first rows of tiles) to [X, N, H]."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Stretches of rows that units of the device take by themselves."""

    runs: Numbers
    """int64 [tiles], which run each belongs to."""

    rows: Numbers
    """int64 [tiles], the first of its rows within the run."""

    @property
    def arrays(self) -> list[Numbers]:
        """What a device needs."""
        return [self.runs, self.rows]


def plan_tiles(runs: Runs, group: int, size: int) -> Tiles:
    """Tiles of `size` rows for `group` query heads to a key/value head; those with the most keys
    first, so that none is begun late that takes long."""
    queries, keys = np.diff(runs.query_borders), np.diff(runs.key_borders)
    counts = -(-queries * group // size)
    numbers = np.repeat(np.arange(len(queries)), counts)
    firsts = np.concatenate([np.arange(count) * size for count in counts])
    last_queries = np.minimum((firsts + size - 1) // group, queries[numbers] - 1)
    reach = keys[numbers] - queries[numbers] + last_queries
    order = np.argsort(-reach, kind="stable")
    return Tiles(numbers[order], firsts[order])


def pad_tiles(tiles: Tiles, runs: Runs, group: int, size: int) -> Tiles:
    """The same tiles, and behind them such as have nothing to do, up to the most that as many runs
    of as many queries can have."""
    num_runs, num_queries = len(runs.query_borders) - 1, int(runs.query_borders[-1])
    more = num_runs + num_queries * group // size - len(tiles.runs)
    behind_last = int(np.diff(runs.query_borders)[-1]) * group
    return Tiles(
        np.pad(tiles.runs, (0, more), constant_values=num_runs - 1),
        np.pad(tiles.rows, (0, more), constant_values=behind_last),
    )


class TiledAttention:
    """Any depth of tree in one call, without a copy of what is seen."""

    def __init__(
        self, tiled: Tiled, ends_tiled: Tiled, tensors: Sequence[Tensor], recall: Recall
    ) -> None:
        """`tiled` computes the tiles of all tokens, `ends_tiled` those of the ends. `tensors` are,
        for each of both, the `arrays` of the runs and of the tiles as int32 on the device."""
        self._tiled, self._ends_tiled = tiled, ends_tiled
        self._recall = recall
        self._all, self._ends = tensors[:5], tensors[5:]

    @property
    def room(self) -> int:
        """See `PathAttention`."""
        return self._recall.num_known

    def attend(self, q_TNH: Tensor, k_CKH: Tensor, v_CKH: Tensor, layer: int) -> Tensor:
        """See `PathAttention`."""
        self._recall.pass_on(k_CKH, v_CKH, layer)
        return self._tiled(q_TNH.contiguous(), k_CKH, v_CKH, *self._all)

    def attend_ends(self, q_RNH: Tensor, k_CKH: Tensor, v_CKH: Tensor, layer: int) -> Tensor:
        """See `PathAttention`."""
        self._recall.pass_on(k_CKH, v_CKH, layer)
        return self._ends_tiled(q_RNH.contiguous(), k_CKH, v_CKH, *self._ends)
