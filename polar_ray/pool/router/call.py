"""Calls: a caller's batch, which of its rows have no answer yet, and the answers so far.

Makes sure that every row of a call is answered once, by one model. Knows nothing of replicas, nor
of how rows travel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from polar_ray.planning.shard import Rows, Shards, merge
from polar_ray.scores import poisoned_scores

Urgency = tuple[int, float, int]
"""The rank of the priority, the deadline, the number of the call. The smallest goes first."""

Served = Mapping[str, str]
"""What makes a replica's scores (`Scorer.provenance`)."""


@dataclass(slots=True, eq=False)
class Item:
    """Rows of one call that travel together."""

    call: Call
    rows: Rows
    cost: int
    """Bytes; see `planning.shard.row_costs`."""

    urgency: Urgency
    group: int | None = None
    """Equal for items with the same prompt and reference; None where an item has several."""

    round: int = 0
    """The round of the call that it belongs to; see `Call.begin`."""

    @property
    def answered(self) -> bool:
        """Nobody waits for any of its rows any more."""
        call = self.call
        if self.round != call.round or call.left == 0:
            return True
        # The common case, without a look at the rows: nothing of the call is answered yet.
        return call.left < len(call.open) and not call.open[self.rows].any()

    @property
    def open_rows(self) -> Rows:
        """Those of its rows that never got an answer, whether anybody waits for one or not."""
        return self.rows[self.call.open[self.rows]]


class Call:
    """One caller's batch. `done` is resolved when the last row has its answer."""

    def __init__(
        self, table: pa.Table, shards: Shards, urgency: Urgency, done: asyncio.Future[None]
    ) -> None:
        self.table, self.shards, self.urgency, self.done = table, shards, urgency, done
        self.restarts = 0
        self.round = 0
        """Grows with each start and end; items of an earlier round are void."""

        self.digest: str | None = None
        """The model whose scores it has; decided when its first item is sent."""

        self.open = np.zeros(table.num_rows, dtype=bool)
        """Which rows have no answer yet."""

        self.left = 0
        """How many."""

        self.left_models: set[str] = set()
        """Models that left the pool, or a replica of it, while they scored it."""

        self._answers: list[tuple[Rows, pa.Table]] = []
        self._poison: list[int] = []

    def begin(self, poison: Sequence[int] = ()) -> list[Item]:
        """Starts a round: all rows as items without an answer. `poison` are rows known to end
        replicas, which are reported and not sent. Forgets earlier answers."""
        self.end()
        self.digest = None
        self.open[:] = True
        self._poison = list(poison)
        if poison:
            self.open[self._poison] = False
        self.left = int(np.count_nonzero(self.open))
        self._resolve_if_complete()
        items = []
        for rows, cost in zip(self.shards.rows, self.shards.costs, strict=True):
            scored = rows[self.open[rows]] if poison else rows
            if len(scored):
                group = self.shards.group
                items.append(Item(self, scored, cost, self.urgency, group, self.round))
        return items

    def end(self) -> None:
        """Ends the round: nobody waits for any of its items any more."""
        self.round += 1
        self.left = 0
        self._answers = []

    def answer(self, item: Item, result: pa.Table) -> None:
        """Keeps the scores of one item's rows, without those that were answered before."""
        rows = item.rows
        if self.left < len(self.open) and not (still := self.open[rows]).all():
            rows, result = rows[still], result.filter(pa.array(still))
        self._answers.append((rows, result))
        self._close(rows)

    def report_poison(self, rows: Sequence[int]) -> bool:
        """Reports those of these rows that have no answer as records that end replicas; whether
        there were any."""
        still = [row for row in rows if self.open[row]]
        if not still or self.left == 0:
            return False
        self._poison += still
        self._close(np.array(still))
        return True

    def _close(self, rows: Rows) -> None:
        self.open[rows] = False
        self.left -= len(rows)
        self._resolve_if_complete()

    def _resolve_if_complete(self) -> None:
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """The caller gets an error instead."""
        if not self.done.done():
            self.done.set_exception(error)

    def result(self, served: Served) -> pa.Table:
        """All rows in request order, once they are there; `served` is what its model is made of."""
        answers = list(self._answers)
        if self._poison:
            rows = np.array(self._poison)
            answers.append((rows, poisoned_scores(served, len(rows))))
        if len(answers) == 1 and not self._poison:
            return answers[0][1]
        return merge(*zip(*answers, strict=True))


def calls_of(items: Iterable[Item]) -> list[Call]:
    """The calls that items belong to, each once, in order."""
    return list(dict.fromkeys(item.call for item in items))
