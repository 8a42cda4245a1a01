"""Belief: what one server is asked before it is given work, and what its answers show.

Knows how a server refuses, and nothing of HTTP, of other servers or of work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from polar_ray.engine.answers import Answered, KnownAnswers
from polar_ray.engine.protocol import Scores
from polar_ray.engine.remote.connection import Refused
from polar_ray.engine.remote.trust import Witnesses, steady
from polar_ray.planning import Ids

REQUEST_TOKENS = 1024
"""Of many short questions, in one request: no more than in the first, which a server that is slow
has answered in time."""

Ask = Callable[[Sequence[Ids]], Awaitable[Scores]]
"""Has one server score sequences; raises a `Trouble`."""


class Belief(NamedTuple):
    """What a server has shown."""

    known: KnownAnswers
    """Those that it takes and has given."""

    witnesses: Witnesses
    """What it gets with each request."""

    refusal: str | None = None
    """What it said to longer ones."""


async def ask_again(ask: Ask, belief: Belief, tolerance: float) -> None:
    """Asks a server that is believed whether it still is what it was. Raises `ConfigError`, which
    names what is wrong, or a `Trouble`."""
    belief.known.check(await ask(belief.known.ids), tolerance)


async def ask_all(
    ask: Ask, known: KnownAnswers, tolerance: float, *, twice: bool = False
) -> Belief:
    """Asks a server that is not known yet for all known answers, `twice` for those that tell the
    most. One that refuses what is long for it is a sound server for the rest. Raises as
    `ask_again`."""
    known, found, refusal = await _as_long_as_it_takes(ask, known)
    again = await ask(known.ids) if twice else None
    known.check(found, tolerance, again=again)
    of_ids = [score for part in _parts(known.vocabulary.ids) for score in await ask(part)]
    known.check_vocabulary(np.array(of_ids, dtype=np.float32), tolerance)
    if known.long.ids:
        try:
            known.check_long(await ask(known.long.ids), tolerance)
        except Refused as error:
            known, refusal = known.within(known.longest), str(error)
    return Belief(known, _witnesses(known, found, np.array(of_ids), tolerance), refusal)


async def _as_long_as_it_takes(
    ask: Ask, known: KnownAnswers
) -> tuple[KnownAnswers, Scores, str | None]:
    """The known answers of up to as many tokens as a server takes, what it says to them, and to
    longer ones. It must take the short ones of `vocabulary`."""
    least = max(map(len, known.vocabulary.ids), default=known.longest)
    refusal = None
    while True:
        try:
            return known, await ask(known.ids), refusal
        except Refused as error:
            if known.longest <= least:
                raise
            refusal = refusal or str(error)
            known = known.within(known.longest - 1)


def _witnesses(known: KnownAnswers, found: Scores, of_ids: Scores, tolerance: float) -> Witnesses:
    answered = known.vocabulary
    if len(answered.ids) < 2:  # the model has few ids
        answered, of_ids = Answered(known.ids, known.scores), found
    return Witnesses(answered, steady(of_ids, answered.scores, tolerance), tolerance)


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
