"""Queue: the parcels that wait in the router, in order of urgency.

Small and large ones wait in two heaps, because small ones may be sent where no large one can.
Knows no replicas.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from polar_ray.pool.router.call import Item, Urgency
from polar_ray.pool.router.work import Parcel
from polar_ray.sizes import BUNDLE_BYTES, LOOKAHEAD, SMALL_BYTES

_Heap = list[tuple[Urgency, int, Parcel]]


class Queue:
    """Parcels by urgency; those that have been answered meanwhile are dropped."""

    def __init__(self) -> None:
        self._large: _Heap = []
        self._small: _Heap = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._large) + len(self._small)

    @property
    def cost(self) -> int:
        """Bytes of all that stands here; takes a look at each."""
        return sum(parcel.cost for heap in (self._small, self._large) for *_, parcel in heap)

    @property
    def rank(self) -> int:
        """The priority of the most urgent parcel; only where there is one."""
        return min(heap[0][0] for heap in (self._small, self._large) if heap)[0]

    @property
    def num_small(self) -> int:
        return len(self._small)

    def push(self, parcel: Parcel) -> None:
        """Adds a parcel; among equally urgent ones it is the last."""
        self._number += 1
        parcel.waiting = True
        heap = self._small if parcel.cost <= SMALL_BYTES else self._large
        heapq.heappush(heap, (parcel.urgency, self._number, parcel))

    def pop(self) -> Parcel | None:
        """Removes the most urgent parcel; None if there is none."""
        while heaps := [heap for heap in (self._small, self._large) if heap]:
            parcel = heapq.heappop(min(heaps, key=lambda heap: heap[0][:2]))[2]
            parcel.waiting = False
            if parcel.prune():
                return parcel
        return None

    def drop_answered(self) -> None:
        """Drops what nobody waits for; without a replica, nothing is ever popped."""
        for heap in (self._small, self._large):
            wanted = [entry for entry in heap if entry[2].prune()]
            if len(wanted) < len(heap):
                heap[:] = wanted
                heapq.heapify(heap)

    def fill(self, parcel: Parcel, most: int, fits: Callable[[Item], bool]) -> None:
        """Moves up to `most` small parcels of the same priority into one that is sent next."""
        cost, passed = parcel.cost, list[Parcel]()
        while most > 0 and self._small and len(passed) < LOOKAHEAD:
            if self._small[0][0][0] != parcel.urgency[0]:
                break
            other = heapq.heappop(self._small)[2]
            other.waiting = False
            if not other.prune():
                continue
            if not other.fresh or not fits(other.items[0]):
                passed.append(other)
                continue
            cost += other.cost
            if cost > BUNDLE_BYTES:
                passed.append(other)
                break
            parcel.items += other.items
            most -= 1
        for other in passed:
            self.push(other)
