"""Losses: the replicas that were lost lately, and how much that speaks against the work they held.

A loss is a replica that died, stopped or stalled. Knows neither Ray nor asyncio.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from polar_ray.pool.router.work import Attempt, Parcel

WINDOW_S = 15.0
"""Losses of other replicas within so long weigh against the suspicion of one's own."""

REMEMBERED_S = 1000.0
"""Longer than a trial takes, which asks what else was lost since it began."""


@dataclass(frozen=True, slots=True)
class _Loss:
    at: float
    families: frozenset[object]
    """What the replica held; see `Parcel.family`."""

    explained: bool
    """A suspect's trial was its cause: it says nothing about other work."""


class Losses:
    """The losses of the last `REMEMBERED_S`."""

    def __init__(self) -> None:
        self._losses: deque[_Loss] = deque()

    def note(
        self,
        held: Collection[Attempt],
        stalled_on: Collection[object],
        now: float,
        *,
        explained: bool = False,
    ) -> None:
        """A replica was lost that held these attempts and had stalled on work of these families."""
        families = frozenset({attempt.parcel.family for attempt in held}.union(stalled_on))
        self._losses.append(_Loss(now, families, explained))
        while self._losses[0].at < now - REMEMBERED_S:
            self._losses.popleft()

    def others(self, parcel: Parcel, since: float) -> int:
        """Replicas lost since then without holding this parcel, for no reason that is known."""
        return sum(
            loss.at >= since and not loss.explained and parcel.family not in loss.families
            for loss in self._losses
        )

    def weight(self, parcel: Parcel, now: float) -> float:
        """How much a loss at this moment speaks against a parcel: 1 in a calm pool, less the more
        others are lost at the same time."""
        return 1.0 / (1 + self.others(parcel, now - WINDOW_S))
