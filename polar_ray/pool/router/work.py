"""Work in the router: parcels, their attempts at replicas, and what each replica holds.

State only: who gets what is decided in `placement`, what becomes of it in `dispatcher` and
`recovery`. Knows neither Ray nor HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from polar_ray.pool.router.call import Item, Urgency
from polar_ray.scores import check_scores

ROW_ID = "id"
"""Column in which a parcel's rows are numbered: a result must bring the same numbers back."""

MAX_ABANDONED = 8
"""Attempts that a replica keeps after their callers left; their tables are kept for as long."""


class _Items:
    """The size of several items."""

    __slots__ = ()
    items: Sequence[Item]

    @property
    def cost(self) -> int:
        """Bytes."""
        return sum(item.cost for item in self.items)

    @property
    def num_rows(self) -> int:
        """Records."""
        return sum(len(item.rows) for item in self.items)


@dataclass(slots=True, eq=False)
class Parcel(_Items):
    """Items that are sent to a replica together, and what has happened to them so far."""

    items: list[Item]
    urgency: Urgency
    digest: str | None = None
    """The model that must score it; None until a call's first item has been sent."""

    failures: int = 0
    """Times that a replica answered with an error instead of scores."""

    lost_on: frozenset[str] = frozenset()
    """Replicas that died, stopped, stalled or failed while they held it."""

    losses: int = 0
    """How many replicas were lost with it."""

    suspicion: float = 0.0
    """How much these losses speak against it; see `losses.Losses.weight`."""

    family: object = field(default_factory=object)
    """The same for a parcel and all parts that it was divided into."""

    trials_lost: int = 0
    """Trials of this single record that its replica did not survive; see `isolation`."""

    inconclusive_trials: int = 0
    waiting: bool = False
    """It stands in a queue, or waits for the retry budget."""

    superseded: bool = False
    """It was divided, and its parts are sent instead."""

    attempts: list[Attempt] = field(default_factory=list)
    """Where it is now."""

    @property
    def answered(self) -> bool:
        """Nobody waits for any of it any more."""
        return all(item.answered for item in self.items)

    @property
    def fresh(self) -> bool:
        """Nothing has happened to it: it may be joined with others."""
        return not (self.failures or self.lost_on or self.attempts)

    @property
    def stalled(self) -> bool:
        """A replica that holds it has stalled on it."""
        return any(attempt.stalled for attempt in self.attempts)

    @property
    def idle(self) -> bool:
        """It is wanted, does not wait, and no replica is relied on to finish it."""
        relied_on = any(not attempt.given_up for attempt in self.attempts)
        return not (self.waiting or self.superseded or relied_on or self.answered)

    def prune(self) -> bool:
        """Drops the items that nobody waits for; whether any are left to be sent."""
        self.items = [item for item in self.items if not item.answered]
        return bool(self.items) and not self.superseded

    def cancel_if_answered(self) -> None:
        """Cancels its attempts if nobody waits for them. A trial goes on: its result is of use to
        others."""
        if self.attempts and self.answered:
            for attempt in self.attempts:
                if not attempt.trial:
                    attempt.cancel()

    def part(self, items: list[Item]) -> Parcel:
        """Some of its rows as a parcel of their own, with the same past."""
        return replace(self, items=items, waiting=False, superseded=False, attempts=[])


@dataclass(slots=True, eq=False)
class Attempt(_Items):
    """A parcel at a replica."""

    member: Member
    parcel: Parcel
    items: tuple[Item, ...]
    """What was sent; the parcel may have been divided since."""

    number: int
    """Unique within a router; the rows' numbers begin with it."""

    began: float
    timeout_s: float
    """Until the last of its callers gives up."""

    task: asyncio.Task[pa.Table] | None = None
    trial: bool = False
    """Its replica is reserved for it; see `isolation`."""

    stalled: bool = False
    """It takes far longer than others did."""

    given_up: bool = False
    """Another replica may have it too; the first answer counts."""

    cancelled: bool = False
    settled: bool = False
    """It has ended, and what became of it has been acted upon."""

    def request(self) -> pa.Table:
        """Its rows as one request table, numbered in `ROW_ID`."""
        parts = [_rows_of(item) for item in self.items]
        # Only some callers name wrappers; the others' are null, which means the default.
        table = pa.concat_tables(parts, promote_options="default") if len(parts) > 1 else parts[0]
        return table.append_column(ROW_ID, pa.array(self._row_ids())).combine_chunks()

    def check(self, result: pa.Table) -> pa.Table:
        """The result without its numbers; `ValueError` if it is not that of these rows."""
        check_scores(result, self.num_rows)
        if ROW_ID not in result.column_names:
            raise ValueError("the result does not say whose rows it holds")
        ids = result[ROW_ID]
        if ids.null_count or not np.array_equal(ids.to_numpy(), self._row_ids()):
            raise ValueError("the result holds other rows, or in another order")
        return result.drop_columns([ROW_ID])

    def _row_ids(self) -> npt.NDArray[np.int64]:
        return (self.number << 32) + np.arange(self.num_rows, dtype=np.int64)

    def cancel(self) -> None:
        """Tells the replica that nobody waits for this any more."""
        if self.task is not None and not self.task.done():
            self.cancelled = True
            self.task.cancel()


@dataclass(slots=True, eq=False)
class Member:
    """A replica as the router sees it. Changed by `membership` and `recovery` only."""

    name: str
    digest: str = ""
    """Of the model that it serves, once that is known."""

    attempts: list[Attempt] = field(default_factory=list)
    """What it holds at the moment, for this router."""

    serving: bool = False
    """It has said what it serves; it is not loading a model."""

    away: str | None = None
    """Why it can score nothing at present: its engine waits for servers elsewhere."""

    unresponsive: bool = False
    """It did not answer its last heartbeat in time; it is not known to be dead."""

    cooldown_until: float = 0.0
    """It failed repeatedly, stalled or could not be reached; others are chosen first."""

    stalled_on: frozenset[object] = frozenset()
    """Families of the work that it stalled on, until it finishes something."""

    reserved: bool = False
    """It becomes empty for a trial; see `isolation`."""

    abandoned: deque[Attempt] = field(default_factory=lambda: deque(maxlen=MAX_ABANDONED))
    """Work whose callers left while it had it, until it finishes something."""

    serving_since: float = 0.0
    heard_at: float = 0.0
    """When it last said anything."""

    available_at: float = 0.0
    """When it last could be given work."""

    failed_in_a_row: int = 0

    @property
    def available(self) -> bool:
        """It may be given work."""
        return self.serving and not self.unresponsive

    def cool_down(self, until: float) -> None:
        """Others are chosen first until then."""
        self.cooldown_until = max(self.cooldown_until, until)

    def held(self, rank: int) -> int:
        """How many parcels of this priority or a higher one it holds."""
        return sum(attempt.parcel.urgency[0] <= rank for attempt in self.attempts)


def _rows_of(item: Item) -> pa.Table:
    table = item.call.table
    whole = len(item.rows) == table.num_rows
    return table if whole else table.take(pa.array(item.rows))
