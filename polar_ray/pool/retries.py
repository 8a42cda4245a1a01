"""Retries: how much work may be repeated. Knows neither Ray nor asyncio."""

from __future__ import annotations

SHARE = 0.2
"""Repeats that each parcel which comes home pays for."""

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
        """One parcel came home."""
        self._left = min(self._burst, self._left + self._share)

    def spend(self, now: float) -> bool:
        """Takes the price of one repetition, if it is there."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._per_s)
        self._at = max(now, self._at)
        if self._left < 1:
            return False
        self._left -= 1
        return True
