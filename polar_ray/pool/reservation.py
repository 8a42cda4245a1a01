"""Reservation: a replica works for everybody, or for a few seconds for one trial alone.

Several routers share a replica, so none of them knows by itself that it is empty. Knows no Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

RESERVED_S = 5.0
"""How long an empty replica waits for the trial that it was reserved for."""


class Reservation:
    """For one event loop."""

    def __init__(self) -> None:
        self._open, self._idle = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._idle.set()
        self._busy = 0
        self._expires: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def work(self, *, trial: bool = False) -> AsyncIterator[None]:
        """One shard's stay; others than the trial wait for the end of a reservation."""
        while not (trial or self._open.is_set()):
            await self._open.wait()
        self._busy += 1
        self._idle.clear()
        self._cancel_expiry()
        try:
            yield
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()
            if trial:
                self._open.set()

    async def reserve(self) -> None:
        """Returns once nothing is at work; nothing but a trial begins for `RESERVED_S`."""
        while not self._open.is_set():
            await self._open.wait()
        self._open.clear()
        try:
            await self._idle.wait()
        except asyncio.CancelledError:
            self._open.set()
            raise
        self._expires = asyncio.get_running_loop().call_later(RESERVED_S, self._open.set)

    def _cancel_expiry(self) -> None:
        if self._expires is not None:
            self._expires.cancel()
            self._expires = None
