"""The HTTP side without a cluster: a scorer of this process in the router's place."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from polar_ray.config import PoolConfig
from polar_ray.pool.admission import Admission
from polar_ray.pool.auth import Tokens
from polar_ray.scorer import Scorer


class ScorerAsRouter:
    """What the routes need of a router (`polar_ray.pool.http.Scoring`). Raises `error` if it is
    set, and keeps what it was asked for."""

    def __init__(
        self, scorer: Scorer, config: PoolConfig | None = None, tokens: Tokens | None = None
    ) -> None:
        self.scorer, self.tokens = scorer, tokens
        self.config = config or PoolConfig()
        self.admission = Admission(self.config.admission)
        self.error: Exception | None = None
        self.timeouts: list[float | None] = []
        self.priorities: list[str] = []

    async def score(
        self, records: Any, timeout_s: float | None = None, priority: str = "train"
    ) -> pa.Table:
        self.timeouts.append(timeout_s)
        self.priorities.append(priority)
        if self.error is not None:
            raise self.error
        return self.scorer.score(records)

    async def provenance(self) -> dict[str, str]:
        return self.scorer.provenance

    async def ready(self) -> None:
        if self.error is not None:
            raise self.error

    async def why_waiting(self) -> str:
        return "the pool's only replica works on no call"
