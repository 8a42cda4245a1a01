"""Trust: how far a server may be from the truth, and what it must answer with every request.

A server that was restarted with another model looks like the one before. So each request carries
witnesses: short sequences whose scores are known. Without right ones its scores are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from random import Random

import numpy as np

from polar_ray.engine.answers import Answered
from polar_ray.engine.protocol import Scores
from polar_ray.planning import Ids

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.05}
"""Largest difference to known answers in a dtype, on scores some ten apart."""


class Witness:
    """A sequence that goes along with a request."""

    def __init__(self, ids: Ids, score: float, tolerance: float) -> None:
        self.ids, self.score, self._tolerance = ids, score, tolerance

    def problem(self, found: float) -> str | None:
        """Why its score shows that the others are not to be used; None if it does not."""
        if abs(found - self.score) <= self._tolerance:
            return None
        return f"it gives {found:.6g} where {self.score:.6g} is known: other weights meanwhile?"


class Guarded:
    """Records with a witness in front and one at `place` among them, so that rows which are turned
    or shifted are seen."""

    def __init__(self, front: Witness, records: Sequence[Ids], among: Witness, place: int) -> None:
        self.ids = [front.ids, *records[:place], among.ids, *records[place:]]
        """What is sent."""

        self._witnesses = {0: front, place + 1: among}

    def problem(self, found: Scores) -> str | None:
        """See `Witness`; of the scores of all that was sent."""
        problems = (each.problem(float(found[at])) for at, each in self._witnesses.items())
        return next((problem for problem in problems if problem is not None), None)

    def own(self, found: Scores) -> Scores:
        """Those of the records alone."""
        return np.delete(found, list(self._witnesses))


class Witnesses:
    """Those that one server gets. The first of a request is the next in turn: a wrong model may be
    right about one, or about all but a few ids. The second and its place are drawn, so that rows
    which change places, or belong to an earlier request, are seen before long."""

    def __init__(self, known: Answered, places: Sequence[int], tolerance: float) -> None:
        self.all = [Witness(known.ids[at], float(known.scores[at]), tolerance) for at in places]
        self._tolerance = tolerance
        self._turns = cycle(self.all)
        self._random = Random()

    def next(self) -> Witness:
        """Another each time."""
        return next(self._turns)

    def guard(self, records: Sequence[Ids]) -> Guarded:
        """Records as they are to be sent."""
        front, place = self.next(), self._random.randint(0, len(records))
        return Guarded(front, records, self._unlike(front), place)

    def _unlike(self, front: Witness) -> Witness:
        """One whose score differs: two with the same would not tell whether rows are turned."""
        others = [one for one in self.all if abs(one.score - front.score) > 2 * self._tolerance]
        return self._random.choice(others or self.all)


def steady(found: Scores, truth: Scores, tolerance: float) -> list[int]:
    """Places of scores that a sound server will not be wrong about later: in 16 bits a few are far
    off, and would be more or less so in another batch."""
    off = np.abs(found - truth)
    places = np.flatnonzero(off <= tolerance / 2)
    if len(places) < len(found) / 2:
        places = np.argsort(off, kind="stable")[: len(found) - len(found) // 2]
    return [int(at) for at in places]
