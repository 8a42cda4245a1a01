"""Health: do replicas answer at all, and do they bring their work home in time?

A stopped process or a cut network answers nothing, and Ray may not say so for minutes: whoever does
not answer a heartbeat, which costs nothing, is unresponsive until it does. A replica that answers
heartbeats may still be stuck in its work: what takes far longer than the pool's own measured speed
explains is overdue. Knows no Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from polar_ray.pool.router.outcome import Died
from polar_ray.pool.router.placement import Member
from polar_ray.pool.router.work import Served

logger = logging.getLogger(__name__)

ASK_AFTER_S = 1.0
"""A replica that holds a parcel for longer is asked for a heartbeat."""

UNRESPONSIVE_S = 5.0
"""A replica that has not answered for so long is unresponsive."""

Ask = Callable[[str], Awaitable[Served | None]]
"""What a replica serves, as soon as it answers; None while it loads a model."""


class Heartbeats:
    """At most one question to each replica at a time."""

    def __init__(
        self,
        ask: Ask,
        heard: Callable[[Member, Served | None], None],
        died: Callable[[Member], None],
    ) -> None:
        self._ask, self._heard, self._died = ask, heard, died
        self._asked: dict[str, tuple[float, Member, asyncio.Future[Served | None]]] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def ask(self, member: Member, now: float) -> None:
        """Asks, unless the last question is still open."""
        if member.name not in self._asked:
            question = asyncio.ensure_future(self._ask(member.name))
            self._asked[member.name] = (now, member, question)
            question.add_done_callback(lambda done: self._answered(member, done))

    def forget(self, name: str) -> None:
        """The replica is gone: its answer is not awaited any more."""
        if name in self._asked:
            self._asked[name][2].cancel()

    def overdue(self, now: float) -> list[Member]:
        """Those that have left a question open for too long."""
        return [m for began, m, _ in self._asked.values() if now - began > UNRESPONSIVE_S]

    def _answered(self, member: Member, question: asyncio.Future[Served | None]) -> None:
        del self._asked[member.name]
        if question.cancelled():
            return
        error = question.exception()
        if error is None:
            self._heard(member, question.result())
        elif isinstance(error, Died):
            self._died(member)
        else:  # it is asked again
            logger.info("no heartbeat of %s: %s", member.name, error)


class Pace:
    """How long parcels take, and which one takes far longer than that."""

    TIMES = 4.0
    """An attempt that takes so many times longer than others is given to a second replica."""

    AT_LEAST_S = 2.0

    def __init__(self) -> None:
        self._s_per_byte: float | None = None

    def learn(self, cost: int, took_s: float) -> None:
        """One parcel came home."""
        seen = took_s / max(1, cost)
        known = self._s_per_byte
        self._s_per_byte = seen if known is None else 0.9 * known + 0.1 * seen

    def overdue(self, cost: int, took_s: float) -> bool:
        """Whether a parcel that is still on its way is late; never before any came home."""
        if self._s_per_byte is None:
            return False
        return took_s > max(self.AT_LEAST_S, self.TIMES * self._s_per_byte * cost)
