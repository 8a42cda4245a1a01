"""polar_ray's engine, and the same kernels with less sharing, as other engines have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.checkpoint import shape_of
from engines.flops import count_flops
from polar_ray.config import NativeEngineConfig
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.protocol import Scores
from polar_ray.model.attention import BLOCK
from polar_ray.planning import Ids, Pack, pack
from polar_ray.planning.cost import Cost, cost
from polar_ray.planning.pack import MIN_SHARE

NEVER = 1 << 30
"""So many tokens in common that nothing is shared."""


class Ours:
    """Plan and forward, as `polar_ray.scorer` does them."""

    def __init__(self, model_dir: Path, *, max_tokens: int | None, shared: bool) -> None:
        self.engine = NativeEngine(NativeEngineConfig(device="cpu"), model_dir)
        self.shape = shape_of(model_dir)
        self.max_tokens = max_tokens or self.engine.info.max_tokens
        self.min_share = MIN_SHARE if shared else NEVER

    def score(self, ids: Sequence[Ids]) -> Scores:
        """float32 [records]"""
        scores = np.empty(len(ids), dtype=np.float32)
        for one in self.packs(ids):
            scores[one.records] = self.engine.submit(one).result()
        return scores

    def packs(self, ids: Sequence[Ids]) -> list[Pack]:
        """The plan."""
        return list(pack(ids, max_tokens=self.max_tokens, min_share=self.min_share))

    def tokens(self, ids: Sequence[Ids]) -> int:
        """Tokens computed."""
        return sum(one.num_tokens for one in self.packs(ids))

    def flops(self, ids: Sequence[Ids]) -> int:
        """Executed operations, counted."""
        return count_flops(lambda: self.score(ids))

    def planned(self, ids: Sequence[Ids]) -> Cost:
        """What the plan says they are, whole blocks of attention included."""
        return self._cost(ids, BLOCK)

    def ideal(self, ids: Sequence[Ids]) -> Cost:
        """The same with causal pairs alone."""
        return self._cost(ids, 1)

    def _cost(self, ids: Sequence[Ids], block: int) -> Cost:
        return sum((cost(self.shape, one, block=block) for one in self.packs(ids)), Cost(0, 0))
