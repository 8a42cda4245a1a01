"""Path attention by one variable-length call: K and V gathered along each span's path.

Plans on the host what is gathered; what makes the call is given by `polar_ray.model.flash`.

Shape suffixes: T packed tokens, C gathered keys, X queries of one call, N query heads, K key/value
heads, H head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polar_ray.model.attention import Recall, SpanTuple, lineages, spans_ending_at

Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
"""(q_XNH, k_CKH, v_CKH, borders of the queries, of the keys, longest of each) to [X, N, H]: causal
attention, run by run, where a run's last query sees all of its keys."""

Numbers = npt.NDArray[np.int64]

GATHERED_KEYS = 1 << 17
"""Of one call: bounds the copy of K and V, in which a prefix stands once for each of its runs. The
longest run may have more."""


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


def pad_runs(runs: Runs, num_runs: int, num_keys: int) -> Runs:
    """The same runs with empty ones behind them, and behind the keys some that no run sees.
    `ValueError` where there are more of either."""
    more_runs = num_runs + 1 - len(runs.query_borders)
    more_keys = num_keys - len(runs.keys)
    if more_runs < 0 or more_keys < 0:
        raise ValueError(f"{-more_runs} runs or {-more_keys} keys too many")
    return Runs(
        np.pad(runs.keys, (0, more_keys)),
        np.pad(runs.query_borders, (0, more_runs), mode="edge"),
        np.pad(runs.key_borders, (0, more_runs), mode="edge"),
    )


class VarlenAttention:
    """Any depth of tree in one call: gathering costs bandwidth, about 1 % of a 7B layer's time."""

    def __init__(
        self, varlen: Varlen, runs: tuple[Runs, Runs], tensors: Sequence[Tensor], recall: Recall
    ) -> None:
        """`tensors` are the `arrays` of both runs as int32 on the device."""
        self._varlen = varlen
        self._recall = recall
        all_runs, end_runs = runs
        self._all = _calls(all_runs, *tensors[:3])
        self._ends = _calls(end_runs, *tensors[3:])

    @property
    def room(self) -> int:
        """See `PathAttention`."""
        return self._recall.num_known

    def attend(self, q_TNH: Tensor, k_CKH: Tensor, v_CKH: Tensor, layer: int) -> Tensor:
        """See `PathAttention`."""
        return self._call(self._all, q_TNH, k_CKH, v_CKH, layer)

    def attend_ends(self, q_RNH: Tensor, k_CKH: Tensor, v_CKH: Tensor, layer: int) -> Tensor:
        """See `PathAttention`."""
        return self._call(self._ends, q_RNH, k_CKH, v_CKH, layer)

    def _call(
        self, calls: Sequence[_Call], q_XNH: Tensor, k_CKH: Tensor, v_CKH: Tensor, layer: int
    ) -> Tensor:
        self._recall.pass_on(k_CKH, v_CKH, layer)
        out = [call.run(self._varlen, q_XNH, k_CKH, v_CKH) for call in calls]
        return out[0] if len(out) == 1 else torch.cat(out)


class _Call(NamedTuple):
    """Some of the runs, one after the other."""

    queries: slice
    keys_C: Tensor
    arguments: tuple[Tensor, Tensor, int, int]
    """Of a `Varlen`, behind K and V."""

    def run(self, varlen: Varlen, q_XNH: Tensor, k_CKH: Tensor, v_CKH: Tensor) -> Tensor:
        """The outputs of these runs; what was gathered for them is gone with it."""
        k, v = (x_CKH.index_select(0, self.keys_C) for x_CKH in (k_CKH, v_CKH))
        return varlen(q_XNH[self.queries].contiguous(), k, v, *self.arguments)


def _calls(runs: Runs, keys_C: Tensor, query_borders: Tensor, key_borders: Tensor) -> list[_Call]:
    """Runs in calls of at most `GATHERED_KEYS` keys, or of one run. The tensors are `runs.arrays`
    on the device."""
    borders = split_runs(runs.key_borders, GATHERED_KEYS)
    places = runs.key_borders.copy()
    places[-1] = len(keys_C)  # with what `pad_runs` put behind them
    return [
        _Call(
            slice(*runs.query_borders[[first, last]].tolist()),
            keys_C[slice(*places[[first, last]].tolist())],
            (
                _from_zero(query_borders, first, last),
                _from_zero(key_borders, first, last),
                _longest(runs.query_borders[first : last + 1]),
                _longest(runs.key_borders[first : last + 1]),
            ),
        )
        for first, last in pairwise(borders)
    ]


def _longest(borders: Numbers) -> int:
    return int(np.diff(borders).max())


def _from_zero(borders: Tensor, first: int, last: int) -> Tensor:
    """The borders of the runs first..last, counted from the first of them."""
    if first == 0:
        return borders[: last + 1]
    return borders[first : last + 1] - borders[first]


def split_runs(borders: Numbers, most: int) -> list[int]:
    """Numbers of runs between which to split, so that each part has at most `most` of what
    `borders` counts, or is one run."""
    parts = [0]
    for run, stop in enumerate(borders[1:].tolist()):
        if run > parts[-1] and stop - borders[parts[-1]] > most:
            parts.append(run)
    return [*parts, len(borders) - 1]
