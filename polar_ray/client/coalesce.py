"""Coalescer: joins small calls of one event loop into fewer calls of the pool.

Trainers score each rollout with a call of its own, thousands at once. Each call of a pool costs
milliseconds on both sides, whatever is in it, so small ones that wait at the same time are sent
together as a bundle. Each caller keeps its own deadline and gets its own rows.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pyarrow as pa

from polar_ray.call_options import Priority
from polar_ray.errors import DeadlineExceeded, RecordError
from polar_ray.sizes import BUNDLE_BYTES, SMALL_BYTES

WAIT_S = 0.003
"""How long a bundle waits after the last was sent, for each that is out: a lone call never waits,
and a busy pool gets fewer and larger bundles."""

LONGEST_WAIT_S = 0.1

GRACE_S = 0.5
"""The pool answers at the deadline and says why; a client gives up this much later."""

Send = Callable[[pa.Table, float, Priority], Awaitable[pa.Table]]
"""One call of the pool: a batch, its deadline in s, its priority."""

_Kind = tuple[Priority, int, pa.Schema]
"""What may be sent together: the same priority, deadlines that differ by less than twice (a pool
orders work by them), the same columns."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A caller's batch, until when by the loop's clock, and its share of the answer."""

    table: pa.Table
    until: float
    result: asyncio.Future[pa.Table]


@dataclass(slots=True, eq=False)
class _Bundle:
    """Calls that are sent together."""

    leaves: asyncio.TimerHandle
    calls: list[_Entry] = field(default_factory=list)
    size_bytes: int = 0


class Coalescer:
    """Joins the small calls of one event loop; `send` makes one call of the pool."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._open: dict[_Kind, _Bundle] = {}
        self._on_their_way: set[asyncio.Task[None]] = set()
        self._left_at = float("-inf")

    async def send(self, batch: pa.Table, timeout_s: float, priority: Priority) -> pa.Table:
        """The result table of a batch, by itself or together with others of the same columns.

        Raises what `send` raised; a `RecordError` only for what is wrong with this very batch.
        """
        if batch.nbytes > SMALL_BYTES:
            return await self._send(batch, timeout_s, priority)
        loop = asyncio.get_running_loop()
        call = _Entry(batch, loop.time() + timeout_s, loop.create_future())
        self._add((priority, math.frexp(timeout_s)[1], batch.schema), call)
        try:
            return await asyncio.wait_for(call.result, timeout_s + GRACE_S)
        except (TimeoutError, asyncio.TimeoutError) as error:
            if isinstance(error, DeadlineExceeded):  # the pool's own, with its reason
                raise
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s") from None

    def _add(self, kind: _Kind, call: _Entry) -> None:
        bundle = self._open.get(kind)
        if bundle is None:
            loop = asyncio.get_running_loop()
            wait_s = min(WAIT_S * len(self._on_their_way), LONGEST_WAIT_S)
            # Also a lone call is sent at the end of this turn: others may be made in it.
            at = max(loop.time(), self._left_at + wait_s)
            bundle = self._open[kind] = _Bundle(loop.call_at(at, self._leave, kind))
        bundle.calls.append(call)
        bundle.size_bytes += call.table.nbytes
        if bundle.size_bytes >= BUNDLE_BYTES:
            bundle.leaves.cancel()
            self._leave(kind)

    def _leave(self, kind: _Kind) -> None:
        loop = asyncio.get_running_loop()
        calls = [call for call in self._open.pop(kind).calls if not call.result.done()]
        if not calls:
            return
        self._left_at = loop.time()
        task = loop.create_task(self._carry(calls, kind[0]))
        self._on_their_way.add(task)
        task.add_done_callback(self._on_their_way.discard)

        waiting = len(calls)

        def left(_: object) -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0:  # answered, which ends the task anyway, or gone
                task.cancel()

        for call in calls:
            call.result.add_done_callback(left)

    async def _carry(self, calls: list[_Entry], priority: Priority) -> None:
        left_s = max(call.until for call in calls) - asyncio.get_running_loop().time()
        table = pa.concat_tables([call.table for call in calls]).combine_chunks()
        try:
            result = await self._send(table, max(left_s, 1e-3), priority)
        except RecordError as error:
            if len(calls) == 1:
                _fail(calls, error)
            else:  # sent one by one, only the one with the bad records fails
                await asyncio.gather(*(self._carry([call], priority) for call in calls))
        except Exception as error:
            _fail(calls, error)
        else:
            start = 0
            for call in calls:
                if not call.result.done():
                    call.result.set_result(result.slice(start, call.table.num_rows))
                start += call.table.num_rows


def _fail(calls: list[_Entry], error: Exception) -> None:
    for call in calls:
        if not call.result.done():
            # Each raises its own: tracebacks grow with every caller that passes one on.
            call.result.set_exception(copy.copy(error))
