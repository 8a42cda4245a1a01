"""EventLoop: one event loop in a thread of its own, for callers that block or have another.

Calls that many threads make at the same time meet in it, and so travel together. It never closes,
unlike the loops that a trainer makes for a batch, and a child process that forks gets its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from polar_ray.client.forks import remake_in_children
from polar_ray.errors import DeadlineExceeded

T = TypeVar("T")

LATE_S = 2.0
"""A call ends by itself at its deadline; where its thread cannot run, the wait ends then."""


class EventLoop:
    """A loop that starts with the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parents: list[asyncio.AbstractEventLoop | None] = []
        remake_in_children(self)

    def after_fork(self) -> None:
        """The parent's thread is not there, and its lock may be held."""
        self._lock = threading.Lock()
        # Kept, as its end would take from the parent the connections on which both look.
        self._parents.append(self._loop)
        self._loop = None

    def run(self, call: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """What a coroutine returns or raises, which ends by itself within `timeout_s`."""
        future = asyncio.run_coroutine_threadsafe(call, self._running())
        try:
            return future.result(timeout_s + LATE_S)
        except FutureTimeout as error:
            if future.done():  # its own error, which is one of time, too
                raise
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s") from error
        finally:
            future.cancel()  # where the caller was interrupted, nobody waits any more

    async def wait(self, call: Coroutine[Any, Any, T]) -> T:
        """`run` for a caller in an event loop of its own, who may give it up."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._running()))

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=self._loop.run_forever, name="polar-ray-calls", daemon=True
                )
                thread.start()
            return self._loop


exchanges = EventLoop()
"""Where requests to servers are made, of all clients."""
