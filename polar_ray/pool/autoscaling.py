"""Autoscaling: how many replicas the work that waits asks for.

Work waits in the routers, where Serve's own policy, which counts calls at replicas, cannot see it.
So routers say with each call to a replica how much waits, each replica reports that and its own
speed to Serve's controller (`Workload`), and the controller asks `Policy` ten times a second.

Serve ships `Policy` to the controller by value, and the project need not be installed there: what
the class uses must be in this file or in Python's own library. Imports no ray.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

REPORT_S = 2.0
"""Seconds between two reports of a replica to Serve's controller."""

WINDOW_S = 30.0
"""How busy and how fast replicas were is looked at over so long."""

STALE_S = 30.0
"""A report of before that is none. Long, because the clocks of two nodes may differ."""

HEARD_S = 3.0
"""What a router said is forgotten after so long. While work waits with it, every replica has work
of its and is called, or asked for a heartbeat, at least once a second."""

Queued = tuple[str, int]
"""A router's name, and how many bytes of work wait with it for a replica."""


class Workload:
    """What one replica tells the policy of itself and of the routers that call it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._busy_s, self._done_bytes = 0.0, 0
        self._since, self._calls, self._held_bytes = 0.0, 0, 0
        self._queued: dict[str, tuple[float, int]] = {}

    def hear(self, queued: Queued | None) -> None:
        """A router says how much waits with it."""
        if queued is not None:
            self._queued[queued[0]] = (self._clock(), queued[1])

    @contextmanager
    def work(self, cost: int) -> Iterator[None]:
        """A call of `cost` bytes is in hand; it is done where nothing is raised."""
        if self._calls == 0:
            self._since = self._clock()
        self._calls += 1
        self._held_bytes += cost
        try:
            yield
            self._done_bytes += cost
        finally:
            self._held_bytes -= cost
            self._calls -= 1
            if self._calls == 0:
                self._busy_s += self._clock() - self._since

    def report(self) -> dict[str, float]:
        """`busy_s` and `done_bytes` since the start, `held_bytes` and `queued_bytes` of now."""
        now = self._clock()
        for router in [name for name, (at, _) in self._queued.items() if now - at > HEARD_S]:
            del self._queued[router]
        return {
            "busy_s": self._busy_s + (now - self._since if self._calls else 0.0),
            "done_bytes": float(self._done_bytes),
            "held_bytes": float(self._held_bytes),
            "queued_bytes": float(sum(size for _, size in self._queued.values())),
        }


@dataclass(frozen=True)
class Load:
    """How a pool stands, as its replicas have reported lately."""

    replicas: int
    """That run."""

    busy: float = 0.0
    """How many of them the work of the last `WINDOW_S` kept busy; who has not reported is."""

    held_bytes: float = 0.0
    """With replicas."""

    queued_bytes: float = 0.0
    """With routers."""

    bytes_per_s: float | None = None
    """A busy replica's speed; None where it is not known yet."""


class Policy:
    """Serve's question, how many replicas there should be, answered from their reports.

    Serve's own part: `upscale_delay_s`, and the bounds. What is decided here is that replicas
    which were needed once in `hold_s` stay.
    """

    def __init__(self, target_wait_s: float, hold_s: float) -> None:
        self._target_wait_s, self._hold_s = target_wait_s, hold_s

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """The number, and what to remember; `ctx` is Serve's `AutoscalingContext`."""
        running, target = ctx.running_replicas, ctx.target_num_replicas
        load = pool_load(ctx.raw_metrics or {}, running, ctx.current_time)
        wanted = replicas_wanted(load, target, self._target_wait_s)
        before = ctx.policy_state
        # Whoever has just started has not had a chance to be needed.
        grown = target if target > before.get("target", -1) else 0
        needed = remember(
            before.get("needed", []), ctx.current_time, max(wanted, grown), self._hold_s
        )
        keep = min(target, max(number for _, number in needed))
        return max(wanted, keep), {"needed": needed, "target": target}


def pool_load(
    metrics: Mapping[str, Mapping[Any, Sequence[Any]]], running: Sequence[Any], now: float
) -> Load:
    """What the reports of the running replicas say together.

    `metrics`: by name of `Workload.report` and by replica, points with a `timestamp` and a `value`.
    """
    busy, held, queued = 0.0, 0.0, 0.0
    lately, ever = [0.0, 0.0], [0.0, 0.0]  # bytes done, seconds busy
    for replica in running:
        series = {name: points.get(replica) or [] for name, points in metrics.items()}
        seconds, done = series.get("busy_s", []), series.get("done_bytes", [])
        if not seconds or not done or now - seconds[-1].timestamp > STALE_S:
            busy += 1
            continue
        over = seconds[-1].timestamp - seconds[0].timestamp
        busy += min(1.0, (seconds[-1].value - seconds[0].value) / over) if over > 0 else 1.0
        for index, points in enumerate((done, seconds)):
            lately[index] += points[-1].value - points[0].value
            ever[index] += points[-1].value
        held += series["held_bytes"][-1].value
        # All hear of the same queues; whoever has just started has heard of none.
        queued = max(queued, series["queued_bytes"][-1].value)
    # Until something is done: what is in hand may be done at any moment, but is not yet.
    guesses = (lately, ever, [held, ever[1]])
    speeds = [size / took for size, took in guesses if size > 0 and took > 0]
    return Load(len(running), busy, held, queued, speeds[0] if speeds else None)


def replicas_wanted(load: Load, target: int, target_wait_s: float) -> int:
    """How many replicas the load of this moment asks for: at least those that are kept busy, more
    where all that is there would take them longer than `target_wait_s`."""
    # A hundredth, because nothing is measured exactly; but the least work keeps one.
    kept = min(load.replicas, max(math.ceil(load.busy - 0.01), load.busy > 0))
    if load.queued_bytes == 0:
        return kept
    if load.bytes_per_s is None:
        return target
    waiting_s = (load.held_bytes + load.queued_bytes) / load.bytes_per_s
    return max(kept, math.ceil(waiting_s / target_wait_s))


def remember(
    needed: Sequence[tuple[float, int]], now: float, number: int, hold_s: float
) -> list[tuple[float, int]]:
    """The numbers that were needed in the last `hold_s`, by time, without those that a later one
    is as large as: the first is the largest."""
    recent = [(at, size) for at, size in needed if now - at <= hold_s and size > number]
    return [*recent, (now, number)]


class Bell:
    """Keeps a call waiting at Serve while work waits and no replica is there: Serve starts one for
    it. `ring` waits for a replica; it may fail, and is called again then."""

    def __init__(self, ring: Callable[[], Awaitable[object]]) -> None:
        self._ring = ring
        self._ringing: asyncio.Task[None] | None = None

    def set(self, needed: bool) -> None:
        """Whether a replica is needed; to be said again and again."""
        if not needed and self._ringing is not None:
            self._ringing.cancel()
        elif needed and self._ringing is None:
            self._ringing = asyncio.create_task(self._until_answered())

    async def _until_answered(self) -> None:
        try:
            with suppress(Exception):  # what a call to no replica in particular ends with
                await self._ring()
        finally:
            self._ringing = None
