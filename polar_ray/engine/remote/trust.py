"""Trust: what a server must answer before it is believed, and with every request afterwards.

A server that was restarted with another model looks like the one before. So each request carries
witnesses: short sequences whose scores are known. Without right ones its scores are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np

from polar_ray.engine.answers import Answered, KnownAnswers
from polar_ray.engine.protocol import Scores
from polar_ray.planning import Ids

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.05}
"""Largest difference to known answers in a dtype, on scores some ten apart."""


class Witness:
    """A sequence that goes along with a request."""

    def __init__(self, ids: Ids, score: float, tolerance: float) -> None:
        self.ids, self._score, self._tolerance = ids, score, tolerance

    def problem(self, found: float) -> str | None:
        """Why its score shows that the others are not to be used; None if it does not."""
        if abs(found - self._score) <= self._tolerance:
            return None
        return f"it gives {found:.6g} where {self._score:.6g} is known: other weights meanwhile?"


class Guarded(NamedTuple):
    """Records between two witnesses: one at each end, so that rows in another order, or shifted,
    are seen."""

    first: Witness
    records: Sequence[Ids]
    last: Witness

    @property
    def ids(self) -> list[Ids]:
        """What is sent."""
        return [self.first.ids, *self.records, self.last.ids]

    def problem(self, found: Scores) -> str | None:
        """See `Witness`; of the scores of all that was sent."""
        return self.first.problem(float(found[0])) or self.last.problem(float(found[-1]))


class Trust:
    """Known answers, and how far a server may be from them."""

    def __init__(self, known: KnownAnswers, tolerance: float) -> None:
        self.known, self.tolerance = known, tolerance
        chosen = known.vocabulary
        if len(chosen.ids) < 2:  # the model reads one token, or has few
            chosen = Answered(known.ids, known.scores)
        self._witnesses = cycle(
            [
                Witness(chosen.ids[at], float(chosen.scores[at]), tolerance)
                for at in neighbours_apart(chosen.scores)
            ]
        )

    def witness(self) -> Witness:
        """The next: another each time, as a wrong model may be right about one, or about all but a
        few ids."""
        return next(self._witnesses)

    def guard(self, records: Sequence[Ids]) -> Guarded:
        """Records as they are to be sent."""
        return Guarded(self.witness(), records, self.witness())


def neighbours_apart(scores: Scores) -> list[int]:
    """An order of these scores in which those that follow each other differ: two witnesses with the
    same score would not tell whether rows are turned."""
    ordered = np.argsort(scores, kind="stable")
    half, rest = len(ordered) // 2, len(ordered) - len(ordered) // 2
    pairs = np.stack([ordered[:half], ordered[rest:]], axis=1)
    return [*pairs.ravel().tolist(), *ordered[half:rest].tolist()]
