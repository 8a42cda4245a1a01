"""Queue: the parcels that wait in the router, in order of urgency.

Small ones stand beside the fat, because another slot may be free for them. Knows no replicas.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from polar_ray.pool.router.placement import EXPRESS_BYTES
from polar_ray.pool.router.work import Item, Order, Parcel

COALESCE_BYTES = 1 << 18
"""Small calls travel together up to this cost."""

SCAN = 64
"""Parcels that cannot leave now are passed over up to this number, so that a look is cheap."""

_Heap = list[tuple[Order, int, Parcel]]


class Queue:
    """Parcels by urgency; what has been answered meanwhile falls out by itself."""

    def __init__(self) -> None:
        self._fat: _Heap = []
        self._small: _Heap = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._fat) + len(self._small)

    @property
    def rank(self) -> int:
        """The priority of the most urgent parcel; only where there is one."""
        return min(heap[0][0] for heap in (self._small, self._fat) if heap)[0]

    @property
    def num_small(self) -> int:
        return len(self._small)

    def push(self, parcel: Parcel) -> None:
        """Adds a parcel; among equally urgent ones it is the last."""
        self._number += 1
        parcel.waiting = True
        heap = self._small if parcel.cost <= EXPRESS_BYTES else self._fat
        heapq.heappush(heap, (parcel.order, self._number, parcel))

    def pop(self) -> Parcel | None:
        """Removes the most urgent parcel; None if there is none."""
        while heaps := [heap for heap in (self._small, self._fat) if heap]:
            parcel = heapq.heappop(min(heaps, key=lambda heap: heap[0][:2]))[2]
            parcel.waiting = False
            if _is_wanted(parcel):
                return parcel
        return None

    def drop_answered(self) -> None:
        """Forgets what nobody waits for: without a replica, nothing is ever popped."""
        for heap in (self._small, self._fat):
            wanted = [entry for entry in heap if _is_wanted(entry[2])]
            if len(wanted) < len(heap):
                heap[:] = wanted
                heapq.heapify(heap)

    def fill(self, parcel: Parcel, most: int, fits: Callable[[Item], bool]) -> None:
        """Moves up to `most` small parcels of the same priority into one that is about to leave."""
        cost, passed = parcel.cost, list[Parcel]()
        while most > 0 and self._small and len(passed) < SCAN:
            if self._small[0][0][0] != parcel.order[0]:
                break
            other = heapq.heappop(self._small)[2]
            other.waiting = False
            if not _is_wanted(other):
                continue
            if not other.fresh or not fits(other.items[0]):
                passed.append(other)
                continue
            cost += other.cost
            if cost > COALESCE_BYTES:
                passed.append(other)
                break
            parcel.items += other.items
            most -= 1
        for other in passed:
            self.push(other)


def _is_wanted(parcel: Parcel) -> bool:
    return not parcel.superseded and parcel.forget_answered()
