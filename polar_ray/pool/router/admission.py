"""Admission: how much work the router holds at once, over all its callers.

Beyond its bounds a call is refused while that is cheap, with a time to come back. Knows neither
Ray nor asyncio.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from polar_ray.call_options import PRIORITIES
from polar_ray.config import AdmissionConfig
from polar_ray.errors import Overloaded, TooLarge
from polar_ray.pool.http.bodies import Admit

SHARES = (1.0, 0.8, 0.5)
"""What calls of each priority may fill: there is always room for those above them."""

WINDOW_S = 10.0
"""Over how long it is measured how many calls come and go."""

SOONEST_S, LATEST_S = 0.1, 30.0
"""Bounds of what a refused caller is told to wait."""


class Admission:
    """Counts calls and bytes, from one thread."""

    def __init__(
        self, limits: AdmissionConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits, self._clock = limits, clock
        self.calls = 0
        self.size_bytes = 0
        self.refused = 0
        self._left = self._came_back = 0.0
        """Calls that were served, and that were refused, over about the last `WINDOW_S`."""

        self._faded_at = clock()

    @contextmanager
    def call(self, rank: int) -> Iterator[Admit]:
        """One call's stay, from before its first byte is read until it has its result.

        Raises `Overloaded` where there is no room, `TooLarge` for what never has any.
        """
        if self.calls >= SHARES[rank] * self._limits.max_calls:
            raise self._overloaded(f"{self.calls} calls are waiting")
        held = 0

        def add(size: int) -> None:
            nonlocal held
            if held + size > self._limits.max_bytes:
                raise TooLarge(
                    f"a batch of {held + size} bytes is over admission.max_bytes="
                    f"{self._limits.max_bytes}; send several"
                )
            full = self.size_bytes + size > SHARES[rank] * self._limits.max_bytes
            if full and self.size_bytes > held:
                waiting = f"{self.size_bytes} bytes are waiting"
                raise self._overloaded(f"{waiting} before this {PRIORITIES[rank]} call")
            held += size
            self.size_bytes += size

        self.calls += 1
        try:
            yield add
        finally:
            self.calls -= 1
            self.size_bytes -= held
            self._leave()

    def _leave(self) -> None:
        self._fade()
        self._left += 1

    def _fade(self) -> None:
        now = self._clock()
        kept = math.exp((self._faded_at - now) / WINDOW_S)
        self._left *= kept
        self._came_back *= kept
        self._faded_at = now

    def _overloaded(self, reason: str) -> Overloaded:
        self.refused += 1
        self._fade()
        self._came_back += 1
        # Those who were refused lately wait too, and would all be back at once.
        wait = WINDOW_S * (self.calls + self._came_back) / max(self._left, 1.0)
        return Overloaded(f"the pool is full: {reason}", min(max(wait, SOONEST_S), LATEST_S))
