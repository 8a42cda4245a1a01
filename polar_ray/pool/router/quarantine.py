"""Quarantine: records that are known to end every process that scores them, or may well be.

Trainers send again what failed; each time would cost replicas. Callers who leave before it is known
which record it was leave their suspicion here. Holds digests, no text. Knows neither Ray nor
asyncio.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from polar_ray.planning.shard import Rows, byte_lengths
from polar_ray.tables import TEXT_COLUMNS

FEW_ROWS = 8
"""Up to here, hashing all rows takes less time than comparing their lengths."""


@dataclass(slots=True)
class Suspicion:
    """What speaks against a record."""

    size: int
    """Equal for records of equal lengths; see `_sizes`."""

    until: float
    weight: float = 0.0
    """See `Parcel.suspicion`."""

    trials_lost: int = 0
    """See `Parcel.trials_lost`."""


class _Memory:
    """What is known of up to `limit` records, each for `lasts_s`; the oldest is forgotten first."""

    def __init__(self, lasts_s: float, limit: int) -> None:
        self._lasts_s, self._limit = lasts_s, limit
        self._known: dict[bytes, Suspicion] = {}

    def _remember(self, table: pa.Table, rows: Rows, now: float) -> list[Suspicion]:
        found = []
        for row, size in zip(rows, _sizes(table.take(pa.array(rows))), strict=True):
            digest, new = _digest(table, int(row)), Suspicion(int(size), now)
            self._known[digest] = known = self._known.pop(digest, new)
            known.until = now + self._lasts_s
            found.append(known)
        while len(self._known) > self._limit:
            del self._known[next(iter(self._known))]
        return found

    def _find(self, table: pa.Table, now: float) -> dict[int, Suspicion]:
        self._known = {key: found for key, found in self._known.items() if found.until > now}
        if not self._known:
            return {}
        rows = np.arange(table.num_rows)
        if len(rows) > FEW_ROWS:
            # Hashing 100 000 rows would hold up the event loop for a second.
            sizes = np.fromiter((found.size for found in self._known.values()), np.int64)
            rows = np.flatnonzero(np.isin(_sizes(table), sizes))
        pairs = ((row, self._known.get(_digest(table, row))) for row in rows.tolist())
        return {row: found for row, found in pairs if found is not None}


class Quarantine(_Memory):
    """Records that end replicas. A new model or a repaired engine may well be able to score them:
    each is tried again after an hour."""

    def __init__(self, lasts_s: float = 3600.0, limit: int = 1000) -> None:
        super().__init__(lasts_s, limit)

    def add(self, table: pa.Table, row: int, now: float) -> None:
        """Remembers one row of a request table."""
        self._remember(table, np.array([row]), now)

    def find(self, table: pa.Table, now: float) -> list[int]:
        """The rows of a request table that are remembered."""
        return list(self._find(table, now))


class Suspicions(_Memory):
    """What spoke against records whose callers have left, for ten minutes. `limit` bounds the time
    that one loss can cost."""

    def __init__(self, lasts_s: float = 600.0, limit: int = 20_000) -> None:
        super().__init__(lasts_s, limit)

    def add(
        self, table: pa.Table, rows: Rows, now: float, *, weight: float, trials_lost: int = 0
    ) -> None:
        """More speaks against these rows of a request table."""
        for found in self._remember(table, rows, now):
            found.weight += weight
            found.trials_lost = max(found.trials_lost, trials_lost)

    def find(self, table: pa.Table, now: float) -> dict[int, Suspicion]:
        """What is known of the rows of a request table."""
        return self._find(table, now)

    def forget(self, table: pa.Table, rows: Iterable[int]) -> None:
        """These rows were scored."""
        if self._known:
            for row in rows:
                self._known.pop(_digest(table, int(row)), None)


def _sizes(table: pa.Table) -> Rows:
    """int64 [rows]: a number for the lengths of a row's texts; null counts as empty."""
    size = np.zeros(table.num_rows, np.int64)
    for name in TEXT_COLUMNS:
        size = size * 1_000_003 + byte_lengths(table[name])
    return size


def _digest(table: pa.Table, row: int) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for name in TEXT_COLUMNS:
        text = table[name][row].as_py()
        data = b"" if text is None else text.encode()
        found.update(b"%d:" % (-1 if text is None else len(data)))
        found.update(data)
    return found.digest()
