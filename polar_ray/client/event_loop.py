"""EventLoop: one event loop in a thread of its own, for callers that block or have another.

Calls that many threads make at the same time meet in it, and so travel together. It never closes,
unlike the loops that a trainer makes for a batch, and a child process that forks gets its own.

A caller's thread may be interrupted anywhere, by Ctrl-C or a signal's handler that raises, as those
that bound a reward's time. So callers share nothing with the loop that has a lock in Python, which
such an exception would leave locked for ever: a future of `concurrent.futures` has one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

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
        ended = threading.Lock()
        ended.acquire()
        loop, running = self._running(), _Running(call, ended.release)
        loop.call_soon_threadsafe(running.begin)
        try:
            if not ended.acquire(timeout=min(timeout_s + LATE_S, threading.TIMEOUT_MAX)):
                raise DeadlineExceeded(f"no answer within {timeout_s:g} s")
        except BaseException:
            loop.call_soon_threadsafe(running.cancel)
            raise
        return running.result()

    async def wait(self, call: Coroutine[Any, Any, T]) -> T:
        """`run` for a caller in an event loop of its own, who may give it up."""
        here = asyncio.get_running_loop()
        ended = here.create_future()

        def end() -> None:
            if not ended.done():  # the caller may have left
                ended.set_result(None)

        def tell() -> None:
            with suppress(RuntimeError):  # the caller's loop is closed
                here.call_soon_threadsafe(end)

        loop, running = self._running(), _Running(call, tell)
        loop.call_soon_threadsafe(running.begin)
        try:
            await ended
        except BaseException:
            loop.call_soon_threadsafe(running.cancel)
            raise
        return running.result()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=loop.run_forever, name="polar-ray-calls", daemon=True
                )
                thread.start()
                self._loop = loop  # once it runs: starting may be interrupted
            return self._loop


class _Running(Generic[T]):
    """A coroutine in the loop. All but `result` is called there."""

    def __init__(self, call: Coroutine[Any, Any, T], tell: Callable[[], None]) -> None:
        self._call, self._tell = call, tell
        self._task: asyncio.Task[T]

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._call)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        self._task.cancel()

    def result(self) -> T:
        """What it returned or raised, once `tell` was called."""
        return self._task.result()

    def _ended(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # nobody may be there to whom it could be raised
        self._tell()


exchanges = EventLoop()
"""Where requests to servers are made, of all clients."""
