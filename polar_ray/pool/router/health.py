"""Health: whether replicas answer heartbeats, and whether they finish their work in time.

A replica that fails to answer a heartbeat is unresponsive until it does; Ray may take minutes to
say that a process is stopped or its network gone. A replica that answers may still be stuck in its
work: an attempt is overdue if it takes far longer than the pool's measured speed explains. Knows no
Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from polar_ray.pool.router.call import Served
from polar_ray.pool.router.outcome import Died
from polar_ray.pool.router.work import Member

logger = logging.getLogger(__name__)

ASK_AFTER_S = 1.0
"""A replica that holds a parcel for longer is asked for a heartbeat."""

UNRESPONSIVE_S = 5.0
"""A replica that has not answered for so long is unresponsive."""

Ask = Callable[[str], Awaitable[Served | None]]
"""What a replica serves, as soon as it answers, see `replica.away`; None while it loads a model."""


class Heartbeats:
    """Asks replicas for heartbeats, at most one at a time from each."""

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

    def ask(self, member: Member, now: float) -> asyncio.Future[Served | None]:
        """Asks, unless the last heartbeat is still outstanding; that is heard when it is done."""
        if member.name not in self._asked:
            heartbeat = asyncio.ensure_future(self._ask(member.name))
            self._asked[member.name] = (now, member, heartbeat)
            heartbeat.add_done_callback(lambda done: self._answered(member, done))
        return self._asked[member.name][2]

    def forget(self, name: str) -> None:
        """The replica is gone: its answer is not awaited any more."""
        if name in self._asked:
            self._asked[name][2].cancel()

    def overdue(self, now: float) -> list[Member]:
        """Those whose heartbeat has been outstanding for too long."""
        return [m for began, m, _ in self._asked.values() if now - began > UNRESPONSIVE_S]

    def _answered(self, member: Member, heartbeat: asyncio.Future[Served | None]) -> None:
        del self._asked[member.name]
        if heartbeat.cancelled():
            return
        error = heartbeat.exception()
        if error is None:
            self._heard(member, heartbeat.result())
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
        """One parcel was scored."""
        seen = took_s / max(1, cost)
        known = self._s_per_byte
        self._s_per_byte = seen if known is None else 0.9 * known + 0.1 * seen

    def overdue(self, cost: int, took_s: float) -> bool:
        """Whether a parcel that is out for so long is late; never before the first was scored."""
        if self._s_per_byte is None:
            return False
        return took_s > max(self.AT_LEAST_S, self.TIMES * self._s_per_byte * cost)
