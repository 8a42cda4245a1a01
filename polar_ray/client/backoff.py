"""Back-off: when a call that the pool refused or lost is sent again. Never past its deadline.

Scoring has no effects, so that sending again is safe; what the caller did wrong is never repeated.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from polar_ray.errors import DeadlineExceeded, Overloaded, PolarRayError, ReplicaLost, Unavailable

FIRST_S, LONGEST_S = 0.2, 3.0
LOST_TRIES = 4
"""A pool that loses a call so often is not going to answer it."""


class Backoff:
    """The waits of one call."""

    def __init__(
        self,
        timeout_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._chance = clock, chance
        self._timeout_s, self._until = timeout_s, clock() + timeout_s
        self._before: PolarRayError | None = None
        """What the last try ended with."""

        self._lost = self._away = 0

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; above 0, so that the pool may say that it is over."""
        return max(self._until - self._clock(), 1e-3)

    def wait_s(self, error: PolarRayError) -> float:
        """How long to wait before the next try; raises `error` if there should be none.

        Waits differ between callers, who would otherwise all come back at once.
        """
        if isinstance(error, Overloaded):
            wait = error.retry_after_s * (0.5 + self._chance())
        elif isinstance(error, Unavailable):
            # It takes Serve half a minute to start another proxy, and the call is not to blame.
            wait = min(FIRST_S * 2**self._away, LONGEST_S) * (0.5 + self._chance() / 2)
            self._away = min(self._away + 1, 10)
        elif isinstance(error, ReplicaLost) and self._lost < LOST_TRIES:
            wait = FIRST_S * 2**self._lost * self._chance()
            self._lost += 1
        else:
            raise self._with_what_was_before(error)
        if wait >= self.left_s:
            raise error
        self._before = error
        return wait

    def _with_what_was_before(self, error: PolarRayError) -> PolarRayError:
        """The last try may have had no time, and knows no reason."""
        if self._before is None or not isinstance(error, DeadlineExceeded):
            return error
        return DeadlineExceeded(
            f"no score within {self._timeout_s:g} s; at last: {error}; before that: {self._before}"
        )
