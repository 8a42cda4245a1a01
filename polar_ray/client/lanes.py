"""Lanes: the kept connections of calls, from whatever thread or event loop.

They live in a loop of this project's that never closes: a trainer that makes a loop for each batch
finds them again, and no loop of a caller's ends with connections in it. Each call has a connection
to itself, and can be given up there whatever a server drips.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx

from polar_ray.client.answers import packed
from polar_ray.client.event_loop import exchanges
from polar_ray.client.forks import remake_in_children
from polar_ray.errors import DeadlineExceeded, PoolError

CLOSE_S = 1.0

REST_S = 5.0
"""A connection that was not used for longer is closed."""


class Lanes:
    """Connections for as many calls as there are at a time."""

    def __init__(self, make: Callable[[], httpx.AsyncClient]) -> None:
        self._make = make
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False
        self.after_fork()
        remake_in_children(self)

    def after_fork(self) -> None:
        """The parent's stay open in its loop."""
        self._resting: dict[httpx.AsyncClient, asyncio.TimerHandle] = {}
        self._out: set[asyncio.Task[Any]] = set()

    def exchange(
        self, request: httpx.Request, seconds: float, most_bytes: int
    ) -> tuple[httpx.Response, bytes]:
        """An answer and its bytes, up to a few more than `most_bytes`; none of what is packed.
        Raises httpx's errors, `asyncio.TimeoutError` or `DeadlineExceeded` after `seconds`, and
        `PoolError` once it was closed."""
        return exchanges.run(self._within(request, seconds, most_bytes), seconds)

    async def exchange_async(
        self, request: httpx.Request, seconds: float, most_bytes: int
    ) -> tuple[httpx.Response, bytes]:
        """`exchange` for an event loop."""
        return await exchanges.wait(self._within(request, seconds, most_bytes))

    def close(self) -> None:
        """Closes the connections, and ends the calls that are out."""
        self._closed = True
        if self._resting or self._out:
            with suppress(DeadlineExceeded):  # then they end with their rest
                exchanges.run(self._close(), CLOSE_S)

    async def _within(
        self, request: httpx.Request, seconds: float, most_bytes: int
    ) -> tuple[httpx.Response, bytes]:
        task = asyncio.current_task()
        assert task is not None, "calls are tasks"
        self._out.add(task)
        try:
            return await asyncio.wait_for(self._exchange(request, most_bytes), seconds)
        except asyncio.CancelledError:
            if self._closed:
                raise PoolError("the client has been closed") from None
            raise
        finally:
            self._out.discard(task)

    async def _exchange(
        self, request: httpx.Request, most_bytes: int
    ) -> tuple[httpx.Response, bytes]:
        http = self._take()
        try:
            found = await _exchange(http, request, most_bytes)
        except BaseException:
            await http.aclose()
            raise
        loop = asyncio.get_running_loop()
        self._resting[http] = loop.call_later(REST_S, self._end, http)
        return found

    def _take(self) -> httpx.AsyncClient:
        if not self._resting:
            return self._make()
        http, end = self._resting.popitem()
        end.cancel()
        return http

    def _end(self, http: httpx.AsyncClient) -> None:
        del self._resting[http]
        task = asyncio.get_running_loop().create_task(http.aclose())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _close(self) -> None:
        for task in self._out:
            task.cancel()
        while self._resting:
            await self._take().aclose()


async def _exchange(
    http: httpx.AsyncClient, request: httpx.Request, most_bytes: int
) -> tuple[httpx.Response, bytes]:
    body = bytearray()
    response = await http.send(request, stream=True)
    try:
        if packed(response) is None:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > most_bytes:
                    break
    finally:
        await response.aclose()
    return response, bytes(body)
