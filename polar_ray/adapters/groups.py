"""Groups without a reference: what candidates of one prompt are compared with, if nothing is given.

POLAR compares an answer with a reference. Where a data set has none, an answer of another policy
can be it, or the best answer so far. Owns only which answer that is; scoring is the pool's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polar_ray.adapters.rows import plain
from polar_ray.errors import RecordError
from polar_ray.messages import NotText, text_of


@dataclass(frozen=True, slots=True)
class Best:
    """An answer, and how good somebody found it."""

    answer: Any
    merit: float


class BestSoFar:
    """The best answer to each prompt, as the reference of its next candidates.

    `merit` is any number that compares answers to one prompt: a verifier's, a judge's, a vote.
    POLAR's scores are one only where all were given for the same reference. The prompts seen least
    lately are forgotten beyond `max_prompts`.
    """

    def __init__(self, max_prompts: int = 100_000) -> None:
        self._max_prompts = max_prompts
        self._best: OrderedDict[str, Best] = OrderedDict()

    def offer(self, prompt: Any, answer: Any, merit: float | None = -math.inf) -> bool:
        """Takes an answer if there is none, or none so good; whether it did. Without a merit, as
        for another policy's answer, it stays until one with a merit comes. An answer whose merit
        is None or NaN, as of a row without a score, is not taken. Raises `RecordError` for one that
        is no text or messages."""
        if merit is None or math.isnan(merit):
            return False
        key, answer = _key(prompt), plain(answer)
        _text("answer", None if answer == [] else answer)  # a list without messages says nothing
        known = self._best.get(key)
        if known is not None and merit <= known.merit:
            return False
        self._best[key] = Best(answer, merit)
        self._best.move_to_end(key)
        if len(self._best) > self._max_prompts:
            self._best.popitem(last=False)
        return True

    def reference(self, prompt: Any) -> Any:
        """The answer to compare with. Raises `RecordError` if there is none yet."""
        key = _key(prompt)
        if key not in self._best:
            raise RecordError(
                f"no answer to {key[:80]!r} yet to compare with; offer one of another policy first"
            )
        self._best.move_to_end(key)
        return self._best[key].answer

    def group(self, prompt: Any, outputs: Sequence[Any]) -> list[dict[str, Any]]:
        """The candidates of one prompt as records, all with the same reference."""
        reference = self.reference(prompt)
        return [
            {"prompt": plain(prompt), "reference": reference, "output": plain(output)}
            for output in outputs
        ]


def _key(prompt: Any) -> str:
    return _text("prompt", plain(prompt))


def _text(name: str, value: Any) -> str:
    try:
        return text_of(name, value)
    except NotText as error:
        raise RecordError(str(error)) from None
