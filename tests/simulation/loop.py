"""An event loop in virtual time: nothing waits, and the same program takes the same course again."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any


class Deadlock(AssertionError):
    """Everybody waits, and nothing will ever happen."""


class _NoWait(selectors.SelectSelector):
    """Where an event loop would sleep, time jumps to what comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock("everybody waits, and nothing will ever happen")
        self.now += timeout
        self.turns += 1
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Counts its turns; keeps what nobody caught."""

    def __init__(self) -> None:
        self._clock = _NoWait()
        super().__init__(self._clock)
        self.uncaught: list[Mapping[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.uncaught.append(context))

    def time(self) -> float:
        """Virtual seconds since its start."""
        return self._clock.now

    @property
    def turns(self) -> int:
        """How often it has looked for something to do: the steps of a simulation."""
        return self._clock.turns
