"""Who gets what: a pack in requests, and requests among servers by their speed. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from polar_ray.engine.order import Order

LEAST_TOKENS = 256
"""Of a request, where there are more: what it costs beside its tokens should not show."""

ROUNDS = 2
"""A pack makes so many requests for each that can be at work, so that fast servers get more."""

GROUP_TIMES = 8
"""A group may have so many times the tokens, where most of them are in the server's cache."""

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Request:
    """Records that one server gets, by their places in an `Order`."""

    ahead: tuple[int, ...]
    """They are sent first."""

    rest: tuple[int, ...]
    """They follow once those are back: they share prefixes with them."""

    num_tokens: int

    @property
    def places(self) -> tuple[int, ...]:
        """All, in the order of their answers."""
        return self.ahead + self.rest


def budget(num_tokens: int, at_work: int, most: int) -> int:
    """Tokens of one request of a pack, where so many requests can be at work at once."""
    even = math.ceil(num_tokens / (ROUNDS * max(1, at_work)))
    return min(most, max(LEAST_TOKENS, even))


def cut(order: Order, most: int, *, leads: bool) -> list[Request]:
    """A pack's records in requests of at most so many tokens, or one record each that is longer.
    Neighbours share prefixes, so they stay together. `leads`: the server's cache saves what records
    share with those that it has done, so that the first of each prefix goes ahead, and groups are
    not divided unless they are very large."""
    lengths = [len(record) for record in order.records]
    found: list[Request] = []
    start, held = 0, 0
    for at, length in enumerate(lengths):
        bound = most if not leads or order.after[at] < start else GROUP_TIMES * most
        if at > start and held + length > bound:
            found.append(_request(order, range(start, at), held, leads=leads))
            start, held = at, 0
        held += length
    if lengths:
        found.append(_request(order, range(start, len(lengths)), held, leads=leads))
    return found


def _request(order: Order, places: range, num_tokens: int, *, leads: bool) -> Request:
    if not leads:
        return Request(tuple(places), (), num_tokens)
    ahead = tuple(at for at in places if order.after[at] not in places)
    rest = tuple(at for at in places if order.after[at] in places)
    return Request(ahead, rest, num_tokens)


@dataclass(slots=True)
class Load:
    """What a server has in hand, and how fast it is."""

    num_tokens: int
    tokens_per_s: float
    free: int
    """Requests that it can be given now."""


def assign(waiting: Iterable[tuple[int, Sequence[S]]], loads: dict[S, Load]) -> list[tuple[int, S]]:
    """Which of the waiting requests begin now, and where: each goes where it is expected to be done
    first, and waits if that server has no room. `waiting` has for each its tokens and the servers
    that may get it. Changes `loads`."""
    begin: list[tuple[int, S]] = []
    for number, (tokens, allowed) in enumerate(waiting):
        able = [server for server in allowed if server in loads]
        if not able:
            continue
        best = min(able, key=lambda s: (loads[s].num_tokens + tokens) / loads[s].tokens_per_s)
        load = loads[best]
        load.num_tokens += tokens
        if load.free > 0:
            load.free -= 1
            begin.append((number, best))
    return begin
