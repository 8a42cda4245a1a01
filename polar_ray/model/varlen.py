"""Path attention by one variable-length call: K and V gathered along each span's path.

Plans on the host what is gathered; what makes the call is given by `polar_ray.model.flash`.

Shape suffixes: T packed tokens, C gathered keys, X queries of one call, N query heads, K key/value
heads, H head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polar_ray.model.attention import Recall, SpanTuple, lineages, spans_ending_at

Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
"""(q_XNH, k_CKH, v_CKH, borders of the queries, of the keys, longest of each) to [X, N, H]: causal
attention, run by run, where a run's last query sees all of its keys."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Runs:
    """Independent stretches of queries, each with its own keys."""

    keys: Numbers
    """int64 [C], the keys of one run after the other, as places in the stream; known spans stand
    behind the stream."""

    query_borders: Numbers
    """int64 [runs + 1], where in the queries each run begins."""

    key_borders: Numbers
    """int64 [runs + 1], the same for `keys`."""

    @property
    def most_queries(self) -> int:
        """Of any run."""
        return int(np.diff(self.query_borders).max())

    @property
    def most_keys(self) -> int:
        """Of any run."""
        return int(np.diff(self.key_borders).max())

    @property
    def arrays(self) -> list[Numbers]:
        """What a device needs."""
        return [self.keys, self.query_borders, self.key_borders]


def plan_runs(
    spans: Sequence[SpanTuple], ends: Sequence[int], known: Mapping[int, int]
) -> tuple[Runs, Runs]:
    """Runs of all tokens, and of the tokens `ends` alone. `known` are tokens of spans that are
    empty in the stream, by span, in the order in which their K and V will follow the stream's."""
    places = [np.arange(start, stop) for start, stop, _ in spans]
    at = spans[-1][1]
    for number, size in known.items():
        places[number] = np.arange(at, at + size)
        at += size
    working = [number for number, (start, stop, _) in enumerate(spans) if stop > start]
    lines = lineages(spans)
    paths = {n: np.concatenate([places[i] for i in lines[n]]) for n in working}
    return (
        _runs([spans[n][1] - spans[n][0] for n in working], [paths[n] for n in working]),
        _runs([1] * len(ends), [paths[n] for n in spans_ending_at(spans, ends)]),
    )


def _runs(sizes: Sequence[int], paths: Sequence[Numbers]) -> Runs:
    return Runs(np.concatenate(paths), _borders(sizes), _borders(map(len, paths)))


def _borders(sizes: Iterable[int]) -> Numbers:
    return np.cumsum([0, *sizes])


class VarlenAttention:
    """Any depth of tree in one call: gathering costs bandwidth, about 1 % of a 7B layer's time."""

    def __init__(
        self, varlen: Varlen, runs: tuple[Runs, Runs], tensors: Sequence[Tensor], recall: Recall
    ) -> None:
        """`tensors` are the `arrays` of both runs as int32 on the device."""
        self._varlen = varlen
        self._recall = recall
        all_runs, end_runs = runs
        self._all = (*tensors[:3], all_runs.most_queries, all_runs.most_keys)
        self._ends = (*tensors[3:], end_runs.most_queries, end_runs.most_keys)

    def attend(self, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, layer: int) -> Tensor:
        """See `PathAttention`."""
        return self._call(self._all, q_TNH, k_TKH, v_TKH, layer)

    def attend_ends(self, q_RNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, layer: int) -> Tensor:
        """See `PathAttention`."""
        return self._call(self._ends, q_RNH, k_TKH, v_TKH, layer)

    def _call(
        self, runs: Sequence[Any], q_XNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, layer: int
    ) -> Tensor:
        keys_C, *borders_and_sizes = runs
        self._recall.note(k_TKH, v_TKH)
        known = [layers[layer] for layers in self._recall.known.values()]
        if known:
            k_TKH = torch.cat([k_TKH, *(kv.k_SKH for kv in known)])
            v_TKH = torch.cat([v_TKH, *(kv.v_SKH for kv in known)])
        k_CKH, v_CKH = (x.index_select(0, keys_C) for x in (k_TKH, v_TKH))
        return self._varlen(q_XNH.contiguous(), k_CKH, v_CKH, *borders_and_sizes)
