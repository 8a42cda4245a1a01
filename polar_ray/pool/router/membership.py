"""Membership: the replicas that a router knows, what each serves, and which are dead.

Serve says which run (`running`), heartbeats and answers say which live. Knows no Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator

from polar_ray.pool.replica.away import without_reason
from polar_ray.pool.router.call import Served
from polar_ray.pool.router.health import ASK_AFTER_S, Ask, Heartbeats
from polar_ray.pool.router.work import Attempt, Member

logger = logging.getLogger(__name__)

REMEMBERED_DEAD = 1_000

AWAY_S = 5.0
"""How long work waits for a replica of the model that it began with, if others are there."""


class Membership:
    """`changed` is called when another replica may be free for work, `loading` with a replica that
    loads a model, `lost` once with each that is dead, `left` with each that Serve does not name
    any more."""

    def __init__(
        self,
        ask: Ask,
        clock: Callable[[], float],
        *,
        changed: Callable[[], None],
        loading: Callable[[Member], None],
        lost: Callable[[Member], None],
        left: Callable[[Member], None],
    ) -> None:
        self._clock, self._changed, self._loading = clock, changed, loading
        self._lost, self._left = lost, left
        self._heartbeats = Heartbeats(ask, self._hear, self.mark_dead)
        self._dead: dict[str, None] = {}
        self._provenance: dict[str, Served] = {}
        self._last_served: Served = {}
        self.num_deaths = 0
        self.members: dict[str, Member] = {}
        """The replicas that work may go to, by name."""

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    @property
    def served(self) -> Served | None:
        """What one of the replicas scores with; None while there is no replica."""
        for member in self:
            if member.available:
                return self._provenance[member.digest]
        return None

    def provenance(self, digest: str | None) -> Served:
        """What makes the scores of a model; without one, what was served last."""
        return self._provenance.get(digest or "", self._last_served)

    def serves(self, digest: str, now: float) -> bool:
        """Whether a replica has this model that can be given work, or could until lately; True
        while there is none that says what it has."""
        known = [member for member in self if member.digest]
        there = {m.digest for m in known if m.available or now - m.available_at < AWAY_S}
        return digest in there or not any(member.available for member in known)

    def set(self, names: Collection[str]) -> None:
        """The replicas that there are now; new ones get work once they have said what they serve.
        Those that left keep what they have in hand: a replica that is drained finishes it."""
        for name in names:
            # Who is known to be dead stays so, though it takes others a while to notice.
            if name not in self.members and name not in self._dead:
                self.members[name] = Member(name)
                self._heartbeats.ask(self.members[name], self._clock())
        for name in [name for name in self.members if name not in names]:
            member = self.members.pop(name)
            self._left(member)
            if not member.attempts:
                self._heartbeats.forget(name)
        self._changed()

    def check(self, attempts: Iterable[Attempt], now: float) -> list[Member]:
        """Asks those that hold work for long or are not available for a heartbeat; gives those that
        have not answered for too long."""
        for attempt in attempts:
            if now - attempt.began > ASK_AFTER_S:
                self._heartbeats.ask(attempt.member, now)
        for member in self:
            if member.available:
                member.available_at = now
            else:
                self._heartbeats.ask(member, now)
        silent = self._heartbeats.overdue(now)
        for member in silent:
            if not member.unresponsive:
                logger.warning("replica %s does not answer; its work goes elsewhere", member.name)
            member.unresponsive = True
        return silent

    def ask(self, member: Member, now: float) -> asyncio.Future[Served | None]:
        """Asks one replica for a heartbeat; it is heard when the future is done."""
        return self._heartbeats.ask(member, now)

    def ask_available(self) -> list[asyncio.Future[Served | None]]:
        """Asks all that can be given work, as far as is known: while they have none, they are not
        asked otherwise."""
        now = self._clock()
        return [self._heartbeats.ask(member, now) for member in self if member.available]

    def _hear(self, member: Member, served: Served | None) -> None:
        """A replica has answered: it serves this, or loads another model, or waits for others."""
        now = self._clock()
        member.unresponsive, member.heard_at = False, now
        known, member.away = (None, None) if served is None else without_reason(served)
        if known is None or member.away is not None:
            member.serving = False
            self._loading(member)
        else:
            if not member.serving:
                member.serving, member.serving_since = True, now
            member.available_at = now
            self.learn(member, known)
        self._changed()

    def learn(self, member: Member, served: Served) -> None:
        """A replica has said what it scores with."""
        member.digest = served.get("model_digest", "")
        self._provenance[member.digest] = self._last_served = served

    def mark_dead(self, member: Member) -> None:
        """A replica's process has ended; `lost` hears of it the first time."""
        self.members.pop(member.name, None)
        self._heartbeats.forget(member.name)
        if member.name in self._dead:
            return
        self.num_deaths += 1
        self._dead[member.name] = None
        if len(self._dead) > REMEMBERED_DEAD:
            del self._dead[next(iter(self._dead))]
        self._lost(member)
