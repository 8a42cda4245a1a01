"""Client: what callers do with a pool, whichever way they reach it.

Owns the choice of what a row without a score becomes. It is never a number: the caller gets an
exception, a None or, on request, a NaN.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

import pyarrow as pa

from polar_ray.call_options import Priority, check_priority, check_timeout
from polar_ray.client.backoff import Backoff
from polar_ray.client.coalesce import Coalescer, Send
from polar_ray.client.waiting import Waiting
from polar_ray.errors import PolarRayError, ScoreError
from polar_ray.records import Ignored, Records, to_batch
from polar_ray.scores import with_row_errors

OnError = Literal["raise", "none", "nan"]


class Transport(Protocol):
    """One way to a pool. Both sends take a table, or what it `carries`, and raise this project's
    errors only, by the deadline."""

    def carries(self, records: object) -> bool:
        """True for what the pool can take as it is, such as a reference to a table."""
        ...

    def send(self, batch: object, timeout_s: float, priority: Priority) -> pa.Table: ...
    async def send_async(self, batch: object, timeout_s: float, priority: Priority) -> pa.Table: ...
    def why_waiting(self) -> str:
        """What calls wait for, as a sentence; asked from another thread. Raises nothing."""
        ...

    def close(self) -> None: ...


class Client:
    """Scores records on a pool; keep one per process. `connect` makes one.

    Records are `Record`s, mappings with the same keys, or an Arrow table; within a Ray cluster
    also an ObjectRef of either. A call that the pool refuses because it is full, or loses, is sent
    again until its deadline. `priority`: whose work goes first, "train", "eval" or "offline".
    Small calls that await their scores in one event loop at the same time travel together.
    While a call is out for more than 10 s, the log says what it waits for.
    """

    def __init__(
        self, transport: Transport, *, timeout_s: float = 600, priority: Priority = "train"
    ) -> None:
        self._transport = transport
        self.timeout_s = check_timeout(timeout_s)
        check_priority(priority)
        self.priority: Priority = priority
        self._ignored = Ignored()
        self._waiting = Waiting(transport.why_waiting)
        self._coalescers: WeakKeyDictionary[asyncio.AbstractEventLoop, Coalescer] = (
            WeakKeyDictionary()
        )

    def __repr__(self) -> str:
        said = f"timeout_s={self.timeout_s:g}, priority={self.priority!r}"
        return f"Client({self._transport!r}, {said})"

    def score(
        self, records: Records, *, on_error: OnError = "raise", timeout_s: float | None = None
    ) -> list[float | None]:
        """One score per record, in order.

        A row without a score raises `ScoreError` naming it, or is None or NaN by `on_error`.
        """
        _check_on_error(on_error)
        return to_list(self.score_table(records, timeout_s=timeout_s), on_error)

    async def score_async(
        self, records: Records, *, on_error: OnError = "raise", timeout_s: float | None = None
    ) -> list[float | None]:
        """`score` for an event loop."""
        _check_on_error(on_error)
        return to_list(await self.score_table_async(records, timeout_s=timeout_s), on_error)

    def score_table(self, records: Records, *, timeout_s: float | None = None) -> pa.Table:
        """The result table (`polar_ray.records.SCORE_SCHEMA`): one row for every record."""
        timeout_s = self.timeout_s if timeout_s is None else check_timeout(timeout_s)
        if self._transport.carries(records):
            return self._send(records, timeout_s)
        batch = to_batch(records, self._ignored)
        return with_row_errors(self._send(batch.table, timeout_s), batch.errors)

    async def score_table_async(
        self, records: Records, *, timeout_s: float | None = None
    ) -> pa.Table:
        """`score_table` for an event loop."""
        timeout_s = self.timeout_s if timeout_s is None else check_timeout(timeout_s)
        if self._transport.carries(records):
            return await self._send_async(self._transport.send_async, records, timeout_s)
        batch = to_batch(records, self._ignored)
        send = self._coalescer().send
        return with_row_errors(await self._send_async(send, batch.table, timeout_s), batch.errors)

    def _coalescer(self) -> Coalescer:
        """That of the running event loop: a client may be used in several."""
        loop = asyncio.get_running_loop()
        if (found := self._coalescers.get(loop)) is None:
            self._forget_closed()
            found = self._coalescers.setdefault(loop, Coalescer(self._transport.send_async))
        return found

    def _forget_closed(self) -> None:
        """Lets go of loops that were closed with calls out: those calls, which never end, hold
        their coalescer, and that holds the loop."""
        for known in self._coalescers.keyrefs():
            if (loop := known()) is not None and loop.is_closed():
                self._coalescers.pop(loop, None)
        self._waiting.forget_closed()

    def tell_waiting(self, tell: Callable[[str], None]) -> None:
        """Has `tell`, instead of the log, called with what a call waits for; from a thread."""
        self._waiting.tell = tell

    def _send(self, batch: object, timeout_s: float) -> pa.Table:
        backoff = Backoff(timeout_s)
        with self._waiting.call():
            while True:
                try:
                    return self._transport.send(batch, timeout_s, self.priority)
                except PolarRayError as error:
                    time.sleep(backoff.wait_s(error))
                timeout_s = backoff.left_s

    async def _send_async(self, send: Send, batch: object, timeout_s: float) -> pa.Table:
        backoff = Backoff(timeout_s)
        with self._waiting.call(asyncio.get_running_loop()):
            while True:
                try:
                    return await send(batch, timeout_s, self.priority)
                except PolarRayError as error:
                    await asyncio.sleep(backoff.wait_s(error))
                timeout_s = backoff.left_s

    def close(self) -> None:
        """Closes connections; the client is not used again. Over HTTP, calls that are out end with
        a `PoolError`."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def to_list(table: pa.Table, on_error: OnError = "raise") -> list[float | None]:
    """The scores of a result table; what a row without one becomes is up to `on_error`."""
    _check_on_error(on_error)
    scores: list[float | None] = table["score"].to_pylist()
    if on_error == "none" or table["score"].null_count == 0:
        return scores
    if on_error == "nan":
        return [float("nan") if score is None else score for score in scores]
    texts = table["error"].to_pylist()
    raise ScoreError({i: text for i, text in enumerate(texts) if text is not None})


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "none", "nan"):
        raise ValueError(f'on_error={on_error!r}; use "raise", "none" or "nan"')
