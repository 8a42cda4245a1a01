"""Placement: which replica gets which work next.

Decides over small values and changes none of them; `dispatcher` acts. Knows neither Ray nor
asyncio.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from polar_ray.pool.router.work import Attempt, Parcel

SLOTS = 2
"""Parcels of any size that a replica holds at once: one that runs, one that is there next. Those of
a lower priority do not count; the replica lets the others pass them."""

EXPRESS_BYTES = 1 << 16
"""A parcel of at most this cost may take one slot more: it is not to wait for the fat ones."""

REMEMBERED_GROUPS = 100_000

MOST_LEFT_BEHIND = 8
"""The last ones; their tables are kept for as long."""


@dataclass(slots=True, eq=False)
class Member:
    """A replica as the router sees it."""

    name: str
    digest: str = ""
    """Of the model that it serves, once that is known."""

    attempts: list[Attempt] = field(default_factory=list)
    """What it holds at the moment, for this router."""

    serving: bool = False
    """It has said what it serves; it is not loading a model."""

    unresponsive: bool = False
    """It does not answer heartbeats; it is not known to be dead."""

    resting_until: float = 0.0
    """It failed repeatedly, stalled or could not be reached; others are asked first."""

    stalled_on: frozenset[object] = frozenset()
    """Families of the work that it stalled on, until it brings something home."""

    reserved: bool = False
    """It becomes empty for a trial; see `isolation`."""

    left_behind: deque[Attempt] = field(default_factory=lambda: deque(maxlen=MOST_LEFT_BEHIND))
    """Work whose callers left while it had it, until it brings something home."""

    serving_since: float = 0.0
    heard_at: float = 0.0
    """When it last said anything."""

    available_at: float = 0.0
    """When it last could be given work."""

    failed_in_a_row: int = 0

    @property
    def available(self) -> bool:
        """It may be given work."""
        return self.serving and not self.unresponsive

    def held(self, rank: int) -> int:
        """How many parcels of this priority or a higher one it holds."""
        return sum(attempt.parcel.order[0] <= rank for attempt in self.attempts)

    def takes(self, parcel: Parcel) -> bool:
        """Whether it has a slot for this parcel now."""
        if self.reserved:
            return False
        return self.held(parcel.order[0]) < SLOTS + (parcel.cost <= EXPRESS_BYTES)


def choose(
    members: Iterable[Member], parcel: Parcel, now: float, home: str | None = None
) -> Member | None:
    """The replica that gets this parcel now; None while it has to wait.

    The emptiest one, but `home`, where its group was before, unless another is idle.
    """
    able = [m for m in reachable(members, now) if parcel.digest in (None, m.digest)]
    if parcel.digest is None:
        able = [m for m in able if m.digest not in parcel.items[0].call.left_models] or able
    # One that lost it before is asked again only where there is no other.
    able = [m for m in able if m.name not in parcel.lost_on] or able
    held_by = [attempt.member for attempt in parcel.attempts]
    free = [m for m in able if m.takes(parcel) and m not in held_by]
    if not free:
        return None
    held = {m.name: m.held(parcel.order[0]) for m in free}
    fewest = min(held.values())
    for member in free:
        if member.name == home and (held[home] == 0 or fewest > 0):
            return member
    return min(free, key=lambda m: (held[m.name], sum(a.cost for a in m.attempts)))


def reachable(members: Iterable[Member], now: float) -> list[Member]:
    """Those that answer; without the resting ones, unless all rest."""
    available = [m for m in members if m.available]
    return rested(available, now) or available


def rested(members: Iterable[Member], now: float) -> list[Member]:
    """Those that answer and have not failed lately."""
    return [m for m in members if m.available and m.resting_until <= now]


class Affinity:
    """Which replica had a group last: it may still have the group's prefix at hand."""

    def __init__(self) -> None:
        self._homes: OrderedDict[int, str] = OrderedDict()

    def home(self, group: int | None) -> str | None:
        """The name of the replica; None if it is not known."""
        return None if group is None else self._homes.get(group)

    def remember(self, group: int | None, name: str) -> None:
        """The group's work goes to this replica."""
        if group is None:
            return
        self._homes[group] = name
        self._homes.move_to_end(group)
        if len(self._homes) > REMEMBERED_GROUPS:
            self._homes.popitem(last=False)
