"""A job: records that one server is to score in one go, and what has become of them so far."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from polar_ray.engine.protocol import Scores
from polar_ray.engine.remote.server import Server
from polar_ray.planning import Ids


class Job:
    """Records for one server, and what has happened to them so far."""

    def __init__(self, ahead: Sequence[Ids], rest: Sequence[Ids]) -> None:
        self.turns = [list(turn) for turn in (ahead, rest) if turn]
        self.num_tokens = sum(len(record) for turn in self.turns for record in turn)
        self.done: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        self.at: dict[Server, asyncio.Task[None]] = {}
        """Where it is now."""

        self.refused_by: dict[Server, str] = {}
        self.failures = 0
        self.busy_since: float | None = None
        """When a server first had no room for it."""

    def busy_for_s(self, now: float) -> float:
        """How long servers have had no room for it, up to now."""
        self.busy_since = now if self.busy_since is None else self.busy_since
        return now - self.busy_since

    def fail(self, error: Exception) -> None:
        """It gets no scores."""
        if not self.done.done():
            self.done.set_exception(error)
