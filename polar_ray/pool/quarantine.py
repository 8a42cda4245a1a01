"""Quarantine: records that are known to end every process that scores them.

Trainers send again what failed; each time would cost replicas. Knows neither Ray nor asyncio.
"""

from __future__ import annotations

import hashlib

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


def _digest(table: pa.Table, row: int) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for name in TEXT_COLUMNS:
        text = table[name][row].as_py()
        data = b"" if text is None else text.encode()
        found.update(b"%d:" % (-1 if text is None else len(data)))
        found.update(data)
    return found.digest()
