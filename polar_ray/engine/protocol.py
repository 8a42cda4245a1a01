"""What an engine is: packs of token ids in, float32 scores out. It knows nothing of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from polar_ray.planning import Ids, Pack

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the encoder and every result's provenance must know about the engine's model."""

    name: str
    """The directory's name, for people."""

    digest: str
    """Changes with anything that may change a score; goes into every result."""

    reward_id: int
    """The token at which a score is read."""

    window: int | None
    """Positions that the model has; None without a bound."""

    scaled_above: int | None
    """Dynamic RoPE: the rotary angles of longer records depend on their own length, so that they
    share prefixes only with records of the same length."""

    vocab_size: int
    dtype: str
    max_tokens: int
    """Tokens of a pack that the device has room for, where nobody asks for another number."""

    products: str = ""
    """By which library a CPU computes the layers' matrix products, and how fast: for people. It may
    differ between two replicas of one model and is in no result."""

    keeps_prefixes: bool = False
    """Whether the engine caches the spans in `Pack.reusable`."""

    def salts(self, ids: Sequence[Ids]) -> list[int] | None:
        """For `pack`: different numbers for records whose equal prefixes give different keys."""
        if self.scaled_above is None:
            return None
        return [len(record) if len(record) > self.scaled_above else 0 for record in ids]


class Pending(Protocol):
    """Scores on their way."""

    def result(self) -> Scores:
        """float32 [R], one score for each of `pack.ends`; raises what `Engine.submit` does."""
        ...


class Engine(Protocol):
    """Scores packs. Not thread-safe: one caller at a time."""

    name: str
    info: ModelInfo

    def submit(self, pack: Pack) -> Pending:
        """Begins a forward pass; on a GPU it goes on while the caller plans the next.

        Raises `EngineError` if it cannot, `OutOfMemory` if a smaller pack might, `DeviceLost` if
        nothing will be computed any more, `ServersAway` if nothing can be at present,
        `EngineClosed` after `close`.
        """
        ...

    @property
    def counters(self) -> Mapping[str, int]:
        """What was done since the start, for metrics: sums that only grow."""
        ...

    def close(self) -> None:
        """Lets go of the model's memory; the engine is not used again."""
        ...


@runtime_checkable
class Reliant(Protocol):
    """An engine that relies on servers elsewhere. It bounds all its waits itself: one that takes
    long is no sign that this process hangs."""

    @property
    def waits_for(self) -> str | None:
        """What must come back before anything can be scored, as a sentence; None if nothing."""
        ...


def waits_for(engine: object) -> str | None:
    """Why an engine can score nothing at present; None if it can."""
    return engine.waits_for if isinstance(engine, Reliant) else None


class Done:
    """Scores that are there already."""

    def __init__(self, scores: Scores) -> None:
        self._scores = scores

    def result(self) -> Scores:
        """See `Pending`."""
        return self._scores
