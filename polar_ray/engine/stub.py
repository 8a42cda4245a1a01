"""An engine without a network: its scores are a pure function of a record's token ids.

For tests, and for measuring the pool alone. Wants a checkpoint directory for its config only.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np

from polar_ray.config import StubEngineConfig
from polar_ray.engine.protocol import ModelInfo, Scores
from polar_ray.model.config import load_config
from polar_ray.planning import Pack


class StubEngine:
    """Scores between -12 and 1, as POLAR's are, from a hash of the ids."""

    name = "stub"

    def __init__(self, config: StubEngineConfig, model_dir: Path) -> None:
        shape = load_config(model_dir)
        self.seconds_per_token = config.seconds_per_token
        self.info = ModelInfo(
            name=f"stub of {model_dir.name}",
            digest="stub",
            reward_id=shape.reward_token_id,
            window=shape.window,
            scaled_above=shape.scaled_above,
            vocab_size=shape.vocab_size,
            dtype="float32",
        )

    def score(self, pack: Pack) -> Scores:
        """One hash for each record."""
        if self.seconds_per_token:
            time.sleep(self.seconds_per_token * pack.num_tokens)
        return np.array([self._score(pack, end) for end in pack.ends], dtype=np.float32)

    def _score(self, pack: Pack, end: int) -> float:
        span = pack.spans[self._span_at(pack, end)]
        ids = [pack.ids[span.start : span.stop]]
        while span.parent >= 0:
            span = pack.spans[span.parent]
            ids.insert(0, pack.ids[span.start : span.stop])
        return stub_score(np.concatenate(ids))

    @staticmethod
    def _span_at(pack: Pack, end: int) -> int:
        return next(i for i, span in enumerate(pack.spans) if span.stop == end + 1)

    def close(self) -> None:
        """Nothing to let go of."""


def stub_score(ids: np.ndarray) -> float:
    """The score that the stub engine gives to one record's ids."""
    raw = hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=4).digest()
    return int.from_bytes(raw, "little") / 2**32 * 13 - 12
