"""Reservation: a replica works for everybody, or for a few seconds for one trial alone.

Several routers share a replica, so none of them knows by itself that it is empty. Knows no Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

RESERVED_S = 5.0
"""How long an empty replica waits for the trial that it was reserved for."""

NEXT_S = 0.2
"""How long it stays empty after a trial: mostly another follows at once."""


class NotReserved(Exception):
    """A trial came too late. Between a replica and a router only; see `outcome.Refused`."""


class Reservation:
    """For one event loop."""

    def __init__(self) -> None:
        self._open, self._idle, self._free = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for event in (self._open, self._idle, self._free):
            event.set()
        self._busy = 0
        self._holder = ""
        self._opens: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def work(self, *, trial_of: str | None = None) -> AsyncIterator[None]:
        """One shard's stay; others than a trial wait until the reservation is over. Raises
        `NotReserved` for a trial of somebody whose reservation is over."""
        if trial_of is not None:
            if self._free.is_set() or self._holder != trial_of:
                raise NotReserved("the replica is not reserved for this trial any more")
            self._cancel_opening()
        else:
            while not self._open.is_set():
                await self._open.wait()
        self._busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()
            if trial_of is not None:
                self._free.set()
                self._open_after(NEXT_S)

    async def reserve(self, holder: str, drained: Callable[[], Awaitable[None]]) -> None:
        """Returns once nothing is at work; nothing but a trial of `holder` begins for
        `RESERVED_S`. `drained` waits for work that callers have left and that goes on all the same.
        """
        while not (self._free.is_set() or self._holder == holder):
            await self._free.wait()
        self._holder = holder
        self._free.clear()
        self._open.clear()
        self._cancel_opening()
        try:
            await self._idle.wait()
            await drained()
        except asyncio.CancelledError:
            self._end()
            raise
        self._open_after(RESERVED_S)

    def _open_after(self, seconds: float) -> None:
        self._cancel_opening()
        self._opens = asyncio.get_running_loop().call_later(seconds, self._end)

    def _cancel_opening(self) -> None:
        if self._opens is not None:
            self._opens.cancel()

    def _end(self) -> None:
        self._free.set()
        self._open.set()
