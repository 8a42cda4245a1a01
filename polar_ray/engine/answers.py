"""Answers that a foreign engine must give, and whether it has given them. Pure.

Knows neither where they come from nor how they are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polar_ray.engine.diagnosis import (
    diagnose,
    diagnose_embeddings,
    diagnose_long,
    known_faults,
)
from polar_ray.engine.protocol import Scores
from polar_ray.errors import ConfigError
from polar_ray.planning import Ids


@dataclass(frozen=True, slots=True)
class Answered:
    """Sequences, and their true scores."""

    ids: list[Ids]
    scores: Scores
    """float32 [sequences]"""

    def within(self, longest: int) -> Answered:
        """Without those of more tokens than that."""
        kept = _places(self.ids, longest)
        return Answered([self.ids[at] for at in kept], self.scores[kept])


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """Questions, and what is true of them."""

    ids: list[Ids]
    scores: Scores
    """float32 [questions]"""

    altered: dict[str, Scores]
    """What engines with known faults say; see `diagnosis.known_faults`."""

    vocabulary: Answered
    """Short ones, of as many ids as they can hold."""

    long: Answered
    """One that is longer than all others; none, where the model reads no longer ones."""

    @property
    def longest(self) -> int:
        """Tokens of the longest of `ids`."""
        return max(map(len, self.ids))

    def within(self, longest: int) -> KnownAnswers:
        """Without the questions of more tokens than that, for an engine that takes no longer
        records; maybe none is left."""
        kept = _places(self.ids, longest)
        return KnownAnswers(
            [self.ids[at] for at in kept],
            self.scores[kept],
            {name: scores[kept] for name, scores in self.altered.items()},
            self.vocabulary.within(longest),
            self.long.within(longest),
        )

    def check(self, found: Scores, tolerance: float, *, again: Scores | None = None) -> None:
        """Raises `ConfigError`, which names the fault, unless `found` are the scores within
        `tolerance`. `again`: what was said when the same was asked a second time."""
        if found.shape != self.scores.shape:
            raise ConfigError(f"scores of shape {found.shape} for {len(self.scores)} sequences")
        faults = known_faults(self.scores, self.altered)
        lengths = [len(row) for row in self.ids]
        problem = diagnose(found, self.scores, faults, lengths, tolerance=tolerance, again=again)
        if problem is not None:
            raise ConfigError(problem)

    def check_vocabulary(self, found: Scores, tolerance: float) -> None:
        """The same of `vocabulary`, by an engine that has passed `check`."""
        truth = self.vocabulary.scores
        if found.shape != truth.shape:
            raise ConfigError(f"scores of shape {found.shape} for {len(truth)} sequences")
        problem = diagnose_embeddings(found, truth, tolerance=tolerance)
        if problem is not None:
            raise ConfigError(problem)

    def check_long(self, found: Scores, tolerance: float) -> None:
        """The same of `long`."""
        for ids, truth, score in zip(self.long.ids, self.long.scores, found, strict=True):
            problem = diagnose_long(float(score), float(truth), len(ids), tolerance=tolerance)
            if problem is not None:
                raise ConfigError(problem)


def _places(ids: Sequence[Ids], longest: int) -> list[int]:
    return [at for at, row in enumerate(ids) if len(row) <= longest]
