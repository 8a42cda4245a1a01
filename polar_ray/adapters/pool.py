"""The pool, as all adapters call it: one client for each process and its settings, calls joined.

Owns what a trainer gets for rows without a score: an exception that names the rows and says why.
Adapters of trainers that can leave a row out ask for the None instead.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from polar_ray.adapters.settings import AdapterConfig, check_place
from polar_ray.client import Client, connect
from polar_ray.client.event_loop import EventLoop
from polar_ray.client.forks import remake_in_children
from polar_ray.errors import ScoreError
from polar_ray.token_file import first_token

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Scored = list[float | None]


class Unscored(ScoreError):
    """Rows without a score, where a trainer cannot leave them out; stops it instead of feeding it
    a number. `rows` maps the row's index to its error text."""

    def __str__(self) -> str:
        shown = "; ".join(f"row {at}: {text}" for at, text in list(self.rows.items())[:3])
        more = f"; and {len(self.rows) - 3} more" if len(self.rows) > 3 else ""
        return f"polar_ray has no score for {len(self.rows)} row(s): {shown}{more}"


class Clients:
    """The clients of one process, by their settings; made when they are first needed."""

    def __init__(self) -> None:
        self._known: dict[AdapterConfig, Client] = {}
        self.after_fork()
        remake_in_children(self)

    def after_fork(self) -> None:
        """The clients make themselves anew; the lock may be held by nobody that is left."""
        self._lock = threading.Lock()

    def get(self, settings: AdapterConfig) -> Client:
        """The client for these settings."""
        with self._lock:
            if (client := self._known.get(settings)) is None:
                client = self._known[settings] = _connect(check_place(settings))
            return client


clients = Clients()
blocking = EventLoop()


async def scores(rows: Sequence[Row], settings: AdapterConfig) -> Scored:
    """One score for each row; None where there is none, which the log explains."""
    found, errors = await _score(rows, settings)
    if errors:
        logger.warning("left out: %s", Unscored(errors))
    return found


async def all_scores(rows: Sequence[Row], settings: AdapterConfig) -> list[float]:
    """One score for each row. Raises `Unscored`, or the error of the whole call."""
    found, errors = await _score(rows, settings)
    if errors:
        raise Unscored(errors)
    return [score for score in found if score is not None]


def scores_now(rows: Sequence[Row], settings: AdapterConfig) -> Scored:
    """`scores` for a caller that blocks, from any thread, in an event loop or not."""
    clients.get(settings)  # a mistake in the settings is the caller's
    return blocking.run(scores(rows, settings), settings.timeout_s)


def all_scores_now(rows: Sequence[Row], settings: AdapterConfig) -> list[float]:
    """`all_scores` for a caller that blocks."""
    clients.get(settings)
    return blocking.run(all_scores(rows, settings), settings.timeout_s)


async def _score(rows: Sequence[Row], settings: AdapterConfig) -> tuple[Scored, dict[int, str]]:
    if not rows:
        return [], {}
    table = await clients.get(settings).score_table_async(rows)
    found, errors = table["score"].to_pylist(), table["error"].to_pylist()
    return found, {at: errors[at] or "no reason" for at, score in enumerate(found) if score is None}


def _connect(settings: AdapterConfig) -> Client:
    file = settings.token_file
    return connect(
        address=settings.address,
        app_name=settings.app_name,
        timeout_s=settings.timeout_s,
        priority=settings.priority,
        token=None if file is None else first_token(file, "token_file"),
    )
