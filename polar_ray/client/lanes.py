"""Lanes: the kept connections of calls that block, each of which ends at its deadline.

httpx bounds each wait for bytes, which a server that drips them never reaches. So the alarm cuts
the connection of a call that is late, and for that each call has one to itself: an httpx client
that has no second call meanwhile. It is also cheaper than one client with many connections, which
looks at all of them in every call.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx

from polar_ray.client.alarm import alarm
from polar_ray.client.answers import packed
from polar_ray.client.forks import remake_in_children

REST_S = 5.0
"""A connection that was not used for longer is closed."""

MOST_RESTING = 64


class Lanes:
    """Connections for as many calls as there are at a time. Threads share it."""

    def __init__(self, make: Callable[[], httpx.Client]) -> None:
        self._make = make
        self._closed = False
        self.after_fork()
        remake_in_children(self)

    def after_fork(self) -> None:
        """Connections would be shared with the parent, and its lock may be held."""
        self._lock = threading.Lock()
        self._resting: deque[_Lane] = deque()

    def exchange(
        self, request: httpx.Request, until: float, most_bytes: int
    ) -> tuple[httpx.Response, bytes]:
        """An answer and its bytes, up to a few more than `most_bytes`; none of what is packed.
        Raises httpx's errors, by `until` on the clock `time.monotonic`."""
        lane = self._take()
        try:
            found = lane.exchange(request, until, most_bytes)
        except BaseException:
            lane.close()
            raise
        self._give_back(lane)
        return found

    def close(self) -> None:
        """Closes the connections that rest, and those of calls when they end."""
        with self._lock:
            self._closed = True
            resting, self._resting = self._resting, deque()
        for lane in resting:
            lane.close()

    def _take(self) -> _Lane:
        with self._lock:
            if self._resting:
                return self._resting.pop()
        return _Lane(self._make())

    def _give_back(self, lane: _Lane) -> None:
        over = []
        with self._lock:
            lane.rests_since = time.monotonic()
            self._resting.append(lane)
            # The last to rest is the next to go, so that those which are not needed stay in front.
            while self._resting and (self._is_over(self._resting[0], lane.rests_since)):
                over.append(self._resting.popleft())
        for old in over:
            old.close()

    def _is_over(self, lane: _Lane, now: float) -> bool:
        crowded = len(self._resting) > MOST_RESTING
        return self._closed or crowded or now - lane.rests_since > REST_S


class _Lane:
    """An httpx client with at most one call and one connection."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._stream: Any = None  # of httpcore, which is no dependency of this project
        self.rests_since = 0.0

    def exchange(
        self, request: httpx.Request, until: float, most_bytes: int
    ) -> tuple[httpx.Response, bytes]:
        request.extensions["trace"] = self._see
        try:
            with alarm.at(until, self._cut):
                return self._exchange(request, until, most_bytes)
        except Exception as error:
            if isinstance(error, httpx.TimeoutException) or time.monotonic() < until:
                raise
            raise httpx.ReadTimeout("the answer is too slow") from error

    def _exchange(
        self, request: httpx.Request, until: float, most_bytes: int
    ) -> tuple[httpx.Response, bytes]:
        body = bytearray()
        response = self._http.send(request, stream=True)
        try:
            if packed(response) is None:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > most_bytes or time.monotonic() > until:
                        break
        finally:
            response.close()
        # An answer without a length ends where its connection does, also where that was cut.
        if time.monotonic() > until:
            raise httpx.ReadTimeout("the answer is too slow")
        return response, bytes(body)

    def close(self) -> None:
        self._http.close()

    def _see(self, event: str, info: dict[str, Any]) -> None:
        """What httpx tells of a request's progress."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = info["return_value"]

    def _cut(self) -> None:
        """Ends what the thread of the call waits for, from another one."""
        if self._stream is not None:
            with suppress(OSError):  # it is closed, or turned into one of TLS just now
                # A TLS socket's own `shutdown` takes away what the other thread reads with.
                socket.socket.shutdown(self._stream.get_extra_info("socket"), socket.SHUT_RDWR)
