"""Evidence: what speaks against records whose callers have left, for when they are sent again.

Callers with short deadlines leave before it is known which record ended their replica, and come
back with the same rows. Without a memory, each time would cost a replica and find nothing out.
Knows neither Ray nor asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from polar_ray.planning.shard import Rows
from polar_ray.pool.router.call import Call, Item
from polar_ray.pool.router.isolation import SUSPECT, Isolation
from polar_ray.pool.router.quarantine import Suspicions
from polar_ray.pool.router.work import Member, Parcel


class Evidence:
    """Hands records against which enough is known to `isolation` as suspects."""

    def __init__(self, isolation: Isolation, clock: Callable[[], float]) -> None:
        self._isolation, self._clock = isolation, clock
        self._suspicions = Suspicions()

    def divert_suspects(self, items: list[Item], now: float) -> list[Item]:
        """The same rows of one call without those that are suspects already, which are tried."""
        known = self._suspicions.find(items[0].call.table, now) if items else {}
        suspected = [row for row, found in known.items() if found.weight >= SUSPECT]
        if not suspected:
            return items
        for item in items:
            mine = np.isin(item.rows, suspected)
            tried = [int(row) for row in item.rows[mine] if known[int(row)].trials_lost]
            others = item.rows[mine & ~np.isin(item.rows, tried)]
            for row in tried:
                self._add_suspect(item, np.array([row]), known[row].trials_lost)
            if len(others):
                self._add_suspect(item, others, 0)
            item.rows = item.rows[~mine]
        return [item for item in items if len(item.rows)]

    def _add_suspect(self, item: Item, rows: Rows, trials_lost: int) -> None:
        part = replace(item, rows=rows, cost=item.cost * len(rows) // len(item.rows))
        self._isolation.add(
            Parcel([part], item.urgency, suspicion=SUSPECT, trials_lost=trials_lost)
        )

    def keep(self, call: Call, parcels: Iterable[Parcel]) -> None:
        """A caller is about to leave; `parcels` are those that were sent with rows of the call."""
        stalled = [parcel for parcel in parcels if parcel.stalled]
        for parcel in (*stalled, *self._isolation.of(call)):
            self.remember(parcel)

    def remember(self, parcel: Parcel) -> None:
        """A suspect's callers have left or may leave, and may send it again."""
        self._add(parcel.items, parcel.suspicion, parcel.trials_lost)

    def blame_abandoned(self, member: Member) -> None:
        """A replica was lost after callers left it with their work: it may have been stuck in
        that."""
        now = self._clock()
        for attempt in member.abandoned:
            self._add(attempt.items, self._isolation.losses.weight(attempt.parcel, now))
        member.abandoned.clear()

    def clear(self, item: Item) -> None:
        """These records were scored in a trial, or reported after it."""
        self._suspicions.forget(item.call.table, item.rows)

    def _add(self, items: Iterable[Item], weight: float, trials_lost: int = 0) -> None:
        now = self._clock()
        for item in items:
            if len(rows := item.open_rows):
                table = item.call.table
                self._suspicions.add(table, rows, now, weight=weight, trials_lost=trials_lost)
