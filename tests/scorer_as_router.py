"""The HTTP side without a cluster: a scorer of this process in the router's place."""

from __future__ import annotations

import pyarrow as pa

from polar_ray.call_options import check_priority
from polar_ray.config import PoolConfig
from polar_ray.pool.http.auth import Tokens
from polar_ray.pool.http.bodies import Read
from polar_ray.pool.router.admission import Admission
from polar_ray.records import with_row_errors
from polar_ray.scorer import Scorer


class ScorerAsRouter:
    """What the routes need of a router (`pool.http.routes.Scoring`). Raises `error` if it is
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

    async def score_read(
        self, read: Read, timeout_s: float | None = None, priority: str = "train"
    ) -> pa.Table:
        self.timeouts.append(timeout_s)
        self.priorities.append(priority)
        with self.admission.call(check_priority(priority)) as admit:
            batch = await read(admit)
            if self.error is not None:
                raise self.error
            return with_row_errors(self.scorer.score(batch.table), batch.errors)

    async def provenance(self) -> dict[str, str]:
        return self.scorer.provenance

    async def ready(self) -> None:
        if self.error is not None:
            raise self.error

    async def why_waiting(self) -> str:
        return "the pool's only replica waits for calls"
