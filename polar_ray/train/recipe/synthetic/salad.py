"""Word salad: texts without meaning, told apart only by how much they have in common.

Covers the whole vocabulary and any length. An edited copy is the better the less it was edited; a
text drawn from the reference's own words is better than one drawn from other words.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from polar_ray.train.data import Comparison

LAYOUTS = ("", "", "", "\n", "\n- ", "\n\n", "\n1. ", ". ", ", ")

SHARES = (0.85, 0.6, 0.35, 0.15)
"""Parts of a reference that excerpts of it keep."""


def excerpt(words: Sequence[str], share: float, rng: Random) -> Sequence[str]:
    """A run of about `share` of the words, at least one."""
    count = max(1, round(share * len(words)))
    start = rng.choice((0, rng.randrange(len(words) - count + 1)))
    return words[start : start + count]


class Salad:
    """Makes comparisons out of `pieces`, short texts in the order of how common they are."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = list(pieces)

    def edits(self, rng: Random, *, size: int, num_outputs: int) -> Comparison:
        """Copies of a reference of about `size` pieces, edited more and more."""
        words = self._text(rng, self._pool(rng), size)
        rates = sorted(rng.choice((0.02, 0.05, 0.1, 0.2, 0.3)) * n for n in range(1, num_outputs))
        outputs = ["".join(words)]
        grades = [0.0]
        for rate in rates:
            outputs.append("".join(self._edit(rng, words, min(rate, 1.0))))
            grades.append(-min(rate, 1.0))
        return self._comparison(rng, "edits", words, outputs, grades)

    def tastes(self, rng: Random, *, size: int, num_outputs: int) -> Comparison:
        """New texts that draw a falling share of their words from the reference's pool."""
        pool = self._pool(rng)
        words = self._text(rng, pool, size)
        shares = sorted(rng.sample((1.0, 0.8, 0.6, 0.4, 0.2, 0.0), min(6, num_outputs - 1)))[::-1]
        outputs, grades = ["".join(words)], [2.0]
        for share in shares:
            length = max(1, int(size * rng.uniform(0.6, 1.5)))
            other = self._pool(rng)
            mixed = [
                rng.choice(pool) if rng.random() < share else rng.choice(other)
                for _ in range(length)
            ]
            outputs.append("".join(mixed))
            grades.append(share)
        return self._comparison(rng, "tastes", words, outputs, grades)

    def excerpts(self, rng: Random, *, size: int, num_outputs: int) -> Comparison:
        """The reference whole, and ever smaller parts of it: all true to it, none complete."""
        words = self._text(rng, self._pool(rng), size)
        shares = SHARES[: num_outputs - 1]
        outputs = ["".join(words), *("".join(excerpt(words, share, rng)) for share in shares)]
        return self._comparison(rng, "excerpts", words, outputs, [1.0, *shares])

    def _comparison(
        self,
        rng: Random,
        family: str,
        words: list[str],
        outputs: list[str],
        grades: list[float],
    ) -> Comparison:
        prompt = "".join(self._text(rng, self._pool(rng), rng.randrange(1, 40))).strip()
        return Comparison(
            prompt=prompt or "?",
            reference="".join(words),
            outputs=tuple(outputs),
            grades=tuple(grades),
            family=f"salad.{family}",
        )

    def _pool(self, rng: Random) -> list[str]:
        """Some of the pieces, common ones more often."""
        size = rng.choice((20, 60, 200, 600))
        last = len(self._pieces)
        if rng.random() < 0.3:
            return [self._pieces[rng.randrange(last)] for _ in range(size)]
        return [self._pieces[int(last ** rng.random()) - 1] for _ in range(size)]

    def _text(self, rng: Random, pool: list[str], size: int) -> list[str]:
        every = rng.choice((7, 12, 25, 10_000))
        layout = rng.choice(LAYOUTS)
        words = []
        for at in range(size):
            words.append(rng.choice(pool))
            if at % every == every - 1:
                words.append(layout)
        return words

    def _edit(self, rng: Random, words: list[str], rate: float) -> list[str]:
        """`words` with about `rate` of them changed, lost, added, moved, or cut off at the end."""
        kind = rng.choice(("mixed", "mixed", "change", "cut", "move", "repeat"))
        count = max(1, round(rate * len(words)))
        if kind == "cut":
            return words[: len(words) - count]
        if kind == "repeat":
            return words + words[-count:]
        edited = list(words)
        for at in rng.sample(range(len(words)), min(count, len(words))):
            action = kind if kind != "mixed" else rng.choice(("change", "lose", "add", "move"))
            if action == "change":
                edited[at] = rng.choice(self._pieces)
            elif action == "lose":
                edited[at] = ""
            elif action == "add":
                edited[at] += rng.choice(self._pieces)
            else:
                other = rng.randrange(len(edited))
                edited[at], edited[other] = edited[other], edited[at]
        return edited
