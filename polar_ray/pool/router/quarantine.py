"""Quarantine: records that are known to end every process that scores them, or may well be.

Trainers send again what failed; each time would cost replicas. Callers who leave before it is known
which record it was leave their suspicion here. Knows neither Ray nor asyncio.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from polar_ray.records import TEXT_COLUMNS

REMEMBERED_S = 3600.0
"""A new model or a repaired engine may well be able to score it."""

REMEMBERED = 1000


class Quarantine:
    """Digests of records, for an hour each. Holds no text."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def add(self, table: pa.Table, row: int, now: float) -> None:
        """Remembers one row of a request table."""
        if len(self._until) >= REMEMBERED:
            del self._until[min(self._until, key=self._until.__getitem__)]
        self._until[_digest(table, row)] = now + REMEMBERED_S

    def find(self, table: pa.Table, now: float) -> list[int]:
        """The rows of a request table that are remembered."""
        self._until = {key: until for key, until in self._until.items() if until > now}
        if not self._until:
            return []
        return [row for row in range(table.num_rows) if _digest(table, row) in self._until]


SUSPECTED_S = 600.0
"""How long a suspicion outlives the call that it arose in."""

SUSPECTED = 20_000
"""Records, and so the time that one loss can cost."""


@dataclass(slots=True)
class Suspicion:
    """What speaks against a record."""

    until: float
    weight: float = 0.0
    """See `Parcel.suspicion`."""

    trials_lost: int = 0
    """See `Parcel.trials_lost`."""


class Suspicions:
    """What spoke against records whose callers have left, by digest. Holds no text."""

    def __init__(self) -> None:
        self._known: dict[bytes, Suspicion] = {}

    def add(
        self,
        table: pa.Table,
        rows: Iterable[int],
        now: float,
        *,
        weight: float,
        trials_lost: int = 0,
    ) -> None:
        """More speaks against these rows of a request table."""
        for row in rows:
            found = self._known.setdefault(_digest(table, int(row)), Suspicion(now))
            found.until = now + SUSPECTED_S
            found.weight += weight
            found.trials_lost = max(found.trials_lost, trials_lost)
        while len(self._known) > SUSPECTED:
            del self._known[next(iter(self._known))]

    def find(self, table: pa.Table, now: float) -> dict[int, Suspicion]:
        """What is known of the rows of a request table."""
        self._known = {key: found for key, found in self._known.items() if found.until > now}
        if not self._known:
            return {}
        found = ((row, self._known.get(_digest(table, row))) for row in range(table.num_rows))
        return {row: known for row, known in found if known is not None}

    def forget(self, table: pa.Table, rows: Iterable[int]) -> None:
        """These rows came home."""
        if self._known:
            for row in rows:
                self._known.pop(_digest(table, int(row)), None)


def _digest(table: pa.Table, row: int) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for name in TEXT_COLUMNS:
        text = table[name][row].as_py()
        data = b"" if text is None else text.encode()
        found.update(b"%d:" % (-1 if text is None else len(data)))
        found.update(data)
    return found.digest()
