"""Retries: how much work may be sent again, and what waits for that.

Knows neither Ray nor asyncio.
"""

from __future__ import annotations

from collections import deque

from polar_ray.pool.router.queue import Queue
from polar_ray.pool.router.work import Parcel

SHARE = 0.2
"""Repeats that each parcel that is scored pays for."""

BURST = 16.0
"""Repeats that may be saved up: what one replica or node holds when it dies."""

TRICKLE_PER_S = 1.0
"""Repeats that are always allowed, so that it never ends."""


class RetryBudget:
    """Bounds repeated work: a share of what succeeds, and a trickle.

    Without it, everything that fails is sent again at once, and load grows where it hurts.
    """

    def __init__(
        self, *, share: float = SHARE, per_s: float = TRICKLE_PER_S, burst: float = BURST
    ) -> None:
        self._share, self._per_s, self._burst = share, per_s, burst
        self._left = burst
        self._at = 0.0

    def earn(self) -> None:
        """One parcel was scored."""
        self._left = min(self._burst, self._left + self._share)

    def spend(self, now: float) -> bool:
        """Takes the price of one repetition, if it is there."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._per_s)
        self._at = max(now, self._at)
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Repeats:
    """Parcels that are sent again: at once where the budget allows it, else a little later."""

    def __init__(self, queue: Queue, budget: RetryBudget | None = None) -> None:
        self._queue = queue
        self._budget = budget or RetryBudget()
        self._postponed: deque[Parcel] = deque()
        self.count = 0
        """Parcels that were sent again."""

    def __len__(self) -> int:
        """Parcels that wait for the budget."""
        return len(self._postponed)

    def earn(self) -> None:
        """One parcel was scored."""
        self._budget.earn()

    def add(self, parcel: Parcel, now: float) -> None:
        """Sends a parcel again, after those that wait already."""
        parcel.waiting = True
        self._postponed.append(parcel)
        self.release(now)

    def release(self, now: float) -> None:
        """Sends what the budget allows by now."""
        while self._postponed and self._budget.spend(now):
            self.count += 1
            self._queue.push(self._postponed.popleft())

    def drop_answered(self) -> None:
        """Forgets what nobody waits for."""
        self._postponed = deque(p for p in self._postponed if p.prune())

    def take_all(self) -> list[Parcel]:
        """Removes all that waits."""
        taken = list(self._postponed)
        self._postponed.clear()
        return taken
