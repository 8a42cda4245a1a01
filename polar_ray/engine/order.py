"""In which order a pack's records are sent, so that sglang's cache saves what they share.

sglang finds prefixes only among records that it has done: those that come together share nothing.
So the first record of each prefix goes ahead, and the others follow when it is back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from polar_ray.planning import Ids, Pack, Span


class Order(NamedTuple):
    """A pack's records as lists of ids, equal ones once."""

    records: list[Ids]

    after: list[int]
    """For each of `records`, the one that must be done before it is sent; -1: none."""

    places: npt.NDArray[np.int64]
    """int64 [R], which of `records` each record of the pack is."""


def order_records(pack: Pack) -> Order:
    """The records of a pack, and who goes ahead of whom."""
    ends, places = np.unique(pack.ends, return_inverse=True)
    span_at = {span.stop - 1: number for number, span in enumerate(pack.spans)}
    leaders: dict[int, int] = {}
    records: list[Ids] = []
    after: list[int] = []
    for number, end in enumerate(ends.tolist()):
        path = _path(pack.spans, span_at[end])
        records.append(np.concatenate([_ids(pack, pack.spans[span]) for span in path]))
        led = [leaders[span] for span in path if span in leaders]
        after.append(led[-1] if led else -1)
        leaders |= {span: number for span in path if span not in leaders}
    return Order(records, after, places)


def _path(spans: tuple[Span, ...], last: int) -> list[int]:
    """Numbers of the spans from a record's first to its last."""
    path = [last]
    while (parent := spans[path[-1]].parent) >= 0:
        path.append(parent)
    return path[::-1]


def _ids(pack: Pack, span: Span) -> Ids:
    return pack.ids[span.start : span.stop]
