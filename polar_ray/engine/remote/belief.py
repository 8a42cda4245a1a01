"""Belief: what one server is asked before it is given work, and what its answers show.

Knows how a server refuses, and nothing of HTTP, of other servers or of work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from polar_ray.engine.answers import KnownAnswers
from polar_ray.engine.protocol import Scores
from polar_ray.engine.remote.connection import Refused
from polar_ray.engine.remote.trust import Trust
from polar_ray.planning import Ids

REQUEST_TOKENS = 1024
"""Of many short questions, in one request: no more than in the first, which a server that is slow
has answered in time."""

Ask = Callable[[Sequence[Ids]], Awaitable[Scores]]
"""Has one server score sequences; raises a `Trouble`."""


class Reach(NamedTuple):
    """How long the sequences are that a server takes."""

    longest: int | None = None
    """Tokens of the longest known one that it has scored; None: it refused none."""

    refusal: str = ""
    """What it said to a longer one."""


async def ask_again(ask: Ask, trust: Trust, longest: int | None) -> None:
    """Asks a server that is believed whether it still is what it was, by what it takes: see
    `Reach`. Raises `ConfigError`, which names what is wrong, or a `Trouble`."""
    known = trust.known if longest is None else trust.known.within(longest)
    known.check(await ask(known.ids), trust.tolerance)


async def ask_all(ask: Ask, trust: Trust, *, twice: bool = False) -> Reach:
    """Asks a server that is not known yet for all known answers, `twice` for those that tell the
    most. One that refuses what is long for it, in so many words, is a sound server for the rest.
    Raises as `ask_again`."""
    known, found, reach = await _as_long_as_it_takes(ask, trust.known)
    again = await ask(known.ids) if twice else None
    known.check(found, trust.tolerance, again=again)
    parts = [await ask(part) for part in _parts(known.vocabulary.ids)]
    known.check_vocabulary(np.concatenate([known.vocabulary.scores[:0], *parts]), trust.tolerance)
    if known.long.ids:
        try:
            known.check_long(await ask(known.long.ids), trust.tolerance)
        except Refused as error:
            return Reach(known.longest, str(error))
    return reach


async def _as_long_as_it_takes(ask: Ask, known: KnownAnswers) -> tuple[KnownAnswers, Scores, Reach]:
    """The questions of up to as many tokens as a server takes, and what it says to them. It must
    take `vocabulary`'s."""
    least = max(map(len, known.vocabulary.ids), default=known.longest)
    reach = Reach()
    while True:
        try:
            return known, await ask(known.ids), reach
        except Refused as error:
            if known.longest <= least:
                raise
            known = known.within(known.longest - 1)
            reach = Reach(known.longest, reach.refusal or str(error))


def _parts(ids: Sequence[Ids]) -> Iterator[list[Ids]]:
    """Sequences in their order, in requests of at most `REQUEST_TOKENS`."""
    part: list[Ids] = []
    for row in ids:
        if part and sum(map(len, part)) + len(row) > REQUEST_TOKENS:
            yield part
            part = []
        part.append(row)
    if part:
        yield part
