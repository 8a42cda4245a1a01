"""Policy: which work goes to which replica next, and what becomes of work that a replica lost.

Pure decisions over small values; `pool.dispatch` acts on them. Knows neither Ray nor asyncio.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from polar_ray.planning.shard import Rows
from polar_ray.planning.suspect import is_guilty, largest_part

SLOTS = 2
"""Parcels of any size that a replica holds at once: one that runs, one that is there next. Those of
a lower priority do not count; the replica lets the others pass them."""

EXPRESS_BYTES = 1 << 16
"""A parcel of at most this cost may take one slot more: it is not to wait for the fat ones."""

LOSSES_ALONE = 2
"""Replicas that died under a parcel before it travels alone, so that the next death is its own."""

Order = tuple[int, float, int]
"""Urgency: the rank of the priority, the deadline, the order of arrival. The least goes first."""


@dataclass(slots=True, eq=False)
class Item:
    """Rows of one call. `answered` ends it, whichever attempt brought the answer."""

    call: Any
    """Whose rows they are; see `pool.dispatch`."""

    rows: Rows
    cost: int
    """Bytes; see `planning.shard.row_costs`."""

    order: Order
    group: int | None = None
    """Equal for items with the same prompt and reference; None where an item has several."""

    answered: bool = False
    attempts: list[Any] = field(default_factory=list)
    """Who has it in hand."""


@dataclass(slots=True, eq=False)
class Parcel:
    """Items that travel to a replica together."""

    items: list[Item]
    order: Order
    digest: str | None = None
    """The model that must score it; None until a call's first item has left."""

    losses: int = 0
    """Replicas that died while they held it."""

    failures: int = 0
    """Times that a replica answered with an error instead of scores."""

    avoid: frozenset[str] = frozenset()
    """Replicas that did not bring it home."""

    @property
    def cost(self) -> int:
        return sum(item.cost for item in self.items)

    @property
    def num_rows(self) -> int:
        return sum(len(item.rows) for item in self.items)

    @property
    def fresh(self) -> bool:
        """Nothing is held against it: it may be joined with others."""
        return not (self.losses or self.failures or self.avoid)

    @property
    def alone(self) -> bool:
        """It must have a replica for itself."""
        return self.losses >= LOSSES_ALONE

    @property
    def guilty(self) -> bool:
        """A single record that took a replica with it while nothing else was there."""
        return is_guilty(self.losses, self.num_rows)


@dataclass(slots=True, eq=False)
class Member:
    """A replica as the router sees it."""

    name: str
    digest: str = ""
    """Of the model that it serves, once that is known."""

    parcels: list[Parcel] = field(default_factory=list)
    """What it holds at the moment, for this router."""

    gray: bool = False
    """It does not answer, or not yet, or is without a model; it is not known to be dead."""

    resting_until: float = 0.0
    """It failed repeatedly; others are asked first."""

    failed_in_a_row: int = 0
    reserved: bool = False
    """It gets no more work until it is empty, for a parcel that must be alone."""

    def held(self, rank: int) -> int:
        """How many parcels of this priority or a higher one it holds."""
        return sum(one.order[0] <= rank for one in self.parcels)

    def takes(self, parcel: Parcel) -> bool:
        """Whether it has a slot for this parcel now."""
        if parcel.alone:
            return not self.parcels
        if self.reserved or any(one.alone for one in self.parcels):
            return False
        return self.held(parcel.order[0]) < SLOTS + (parcel.cost <= EXPRESS_BYTES)


def choose(
    members: Iterable[Member], parcel: Parcel, now: float, home: str | None = None
) -> Member | None:
    """The replica that gets this parcel now; None while it has to wait.

    The emptiest one, but `home`, where its group was before, unless another is idle.
    """
    able = [m for m in reachable(members, now) if parcel.digest in (None, m.digest)]
    # One that lost it before is asked again only where there is no other.
    able = [m for m in able if m.name not in parcel.avoid] or able
    free = [m for m in able if m.takes(parcel)]
    if not free:
        if parcel.alone and able and not any(m.reserved for m in able):
            min(able, key=lambda m: len(m.parcels)).reserved = True
        return None
    held = {m.name: m.held(parcel.order[0]) for m in free}
    fewest = min(held.values())
    for member in free:
        if member.name == home and (held[home] == 0 or fewest > 0):
            return member
    return min(free, key=lambda m: (held[m.name], sum(one.cost for one in m.parcels)))


def reachable(members: Iterable[Member], now: float) -> list[Member]:
    """Those that answer; without the resting ones, unless all rest."""
    awake = [m for m in members if not m.gray]
    return [m for m in awake if m.resting_until <= now] or awake


def split(parcel: Parcel) -> list[Parcel]:
    """A parcel as some smaller ones of about as many rows each, with the same past."""
    largest = largest_part(parcel.num_rows)
    pieces = [piece for item in parcel.items for piece in _cut(item, largest)]
    parts: list[list[Item]] = [[]]
    size = 0
    for piece in pieces:
        if parts[-1] and size + len(piece.rows) > largest:
            parts.append([])
            size = 0
        parts[-1].append(piece)
        size += len(piece.rows)
    return [
        Parcel(items, parcel.order, parcel.digest, parcel.losses, parcel.failures, parcel.avoid)
        for items in parts
    ]


def _cut(item: Item, largest: int) -> Sequence[Item]:
    if len(item.rows) <= largest:
        return [item]
    starts = range(0, len(item.rows), largest)
    # Whoever still has the whole in hand comes too late with it.
    item.answered = True
    cost = -(-item.cost // len(starts))
    return [
        Item(item.call, item.rows[at : at + largest], cost, item.order, item.group) for at in starts
    ]


class Pace:
    """How long parcels take, and which one takes far longer than that."""

    TIMES = 4.0
    """An attempt that takes so many times longer than others is given to a second replica."""

    AT_LEAST_S = 2.0

    def __init__(self) -> None:
        self._s_per_byte: float | None = None

    def learn(self, cost: int, took_s: float) -> None:
        """One parcel came home."""
        one = took_s / max(1, cost)
        self._s_per_byte = one if self._s_per_byte is None else 0.9 * self._s_per_byte + 0.1 * one

    def overdue(self, cost: int, took_s: float) -> bool:
        """Whether a parcel that is still on its way is late; never before any came home."""
        if self._s_per_byte is None:
            return False
        return took_s > max(self.AT_LEAST_S, self.TIMES * self._s_per_byte * cost)


class RetryBudget:
    """Bounds repeated work: a share of what succeeds, and a trickle so that it never ends.

    Without it, everything that fails is sent again at once, and load grows where it hurts.
    """

    def __init__(self, *, share: float = 0.2, per_s: float = 10.0, burst: float = 64.0) -> None:
        self._share, self._per_s, self._burst = share, per_s, burst
        self._left = burst
        self._at = 0.0

    def earn(self) -> None:
        """One parcel came home."""
        self._left = min(self._burst, self._left + self._share)

    def spend(self, now: float) -> bool:
        """Takes the price of one repetition, if it is there."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
