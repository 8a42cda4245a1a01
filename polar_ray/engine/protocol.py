"""What an engine is: packs of token ids in, float32 scores out. It knows nothing of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from polar_ray.planning import Pack

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
    """Longer records turn by their own length (dynamic RoPE): no prefix of theirs is another's."""

    vocab_size: int
    dtype: str


class Engine(Protocol):
    """Scores packs. Not thread-safe: one caller at a time."""

    name: str
    info: ModelInfo

    def score(self, pack: Pack) -> Scores:
        """float32 [R], one score for each of `pack.ends`; raises `EngineError` if it cannot."""
        ...

    def close(self) -> None:
        """Lets go of the model's memory; the engine is not used again."""
        ...
