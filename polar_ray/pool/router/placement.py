"""Placement: which replica gets which work next. Pure decisions; `dispatcher` acts on them.

A parcel goes to the replica that holds the least, among those that answer, serve its model and have
a free slot. Knows neither Ray nor asyncio, and changes nothing that it is given.
"""

from __future__ import annotations

from collections.abc import Iterable

from polar_ray.pool.router.call import Item
from polar_ray.pool.router.work import Member, Parcel
from polar_ray.sizes import SMALL_BYTES

SLOTS = 2
"""Parcels of any size that a replica holds at once: one that it scores, and the next. Those of a
lower priority do not count, because the replica scores the others first."""


def choose(
    members: Iterable[Member], parcel: Parcel, now: float, preferred: Member | None = None
) -> Member | None:
    """The replica that gets this parcel now; None if it has to wait.

    The one that holds the least; `preferred`, which had the parcel's group before, unless another
    is idle and it is not.
    """
    able = [m for m in reachable(members, now) if parcel.digest in (None, m.digest)]
    if parcel.digest is None:
        able = [m for m in able if m.digest not in parcel.items[0].call.left_models] or able
    # A replica that lost it before gets it again only if there is no other.
    able = [m for m in able if m.name not in parcel.lost_on] or able
    held_by = [attempt.member for attempt in parcel.attempts]
    free = [m for m in able if has_slot(m, parcel) and m not in held_by]
    if not free:
        return None
    held = {m.name: m.held(parcel.urgency[0]) for m in free}
    if preferred in free and (held[preferred.name] == 0 or min(held.values()) > 0):
        return preferred
    return min(free, key=lambda m: (held[m.name], sum(a.cost for a in m.attempts)))


def has_slot(member: Member, parcel: Parcel) -> bool:
    """Whether a replica has a slot for this parcel; a small one may use one more."""
    if member.reserved:
        return False
    return member.held(parcel.urgency[0]) < SLOTS + (parcel.cost <= SMALL_BYTES)


def any_slot(members: Iterable[Member], rank: int) -> bool:
    """Whether work of this priority could be sent to any replica, if it is small."""
    return any(member.held(rank) <= SLOTS and member.available for member in members)


def fair_share(members: Iterable[Member], rank: int, num_small: int) -> int:
    """How many of the small parcels that wait may join one that is sent now, so that the other
    free slots get as many."""
    free = sum(max(0, SLOTS - member.held(rank)) for member in members)
    return -(-(num_small + 1) // max(1, free)) - 1


def may_join(item: Item, member: Member, preferred: Member | None) -> bool:
    """Whether a small item may be sent to a replica along with others. It waits for `preferred`,
    which has its group's prefix in its cache, if that one has a slot soon."""
    call = item.call
    if call.digest not in (None, member.digest) or member.digest in call.left_models:
        return False
    return preferred in (None, member) or preferred.held(item.urgency[0]) > SLOTS


def reachable(members: Iterable[Member], now: float) -> list[Member]:
    """Those that answer; without those in a cooldown, unless all are."""
    available = [m for m in members if m.available]
    return ready(available, now) or available


def ready(members: Iterable[Member], now: float) -> list[Member]:
    """Those that answer and are not in a cooldown."""
    return [m for m in members if m.available and m.cooldown_until <= now]
