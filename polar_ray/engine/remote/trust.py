"""Trust: what a server must answer before it is believed, and with every request afterwards.

A server that was restarted with another model looks like the one before. So each request carries a
witness: a short sequence whose score is known. Without a right witness its scores are not used.
"""

from __future__ import annotations

from itertools import cycle

import numpy as np

from polar_ray.engine.known_answers import KnownAnswers
from polar_ray.engine.protocol import Scores
from polar_ray.planning import Ids

WITNESS_TOKENS = (4, 40)
"""Of the questions that come as witnesses: long enough to need positions, and cheap."""

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


class Trust:
    """Known answers, and how far a server may be from them."""

    def __init__(self, known: KnownAnswers, tolerance: float) -> None:
        self.known, self.tolerance = known, tolerance
        least, most = WITNESS_TOKENS
        short = [at for at, ids in enumerate(known.ids) if least <= len(ids) <= most]
        chosen = short or [int(np.argmax([-len(ids) for ids in known.ids]))]
        self._witnesses = cycle(
            [Witness(known.ids[at], float(known.scores[at]), tolerance) for at in chosen]
        )

    def witness(self) -> Witness:
        """The next: another each time, as a wrong model may be right about one."""
        return next(self._witnesses)

    def check(self, found: Scores, again: Scores | None = None) -> None:
        """Raises `ConfigError`, which names the fault of a server that answered so."""
        self.known.check(found, self.tolerance, again=again)
