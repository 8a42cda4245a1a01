"""Work: a caller's batch, the pieces in which its rows travel, and their attempts at replicas.

Keeps that every row of a call is answered once, by one model. Knows neither Ray nor how a replica
is chosen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from polar_ray.planning.shard import Cut, Rows, merge
from polar_ray.records import check_scores, poisoned_scores

if TYPE_CHECKING:
    from polar_ray.pool.router.placement import Member

Order = tuple[int, float, int]
"""Urgency: the rank of the priority, the deadline, the order of arrival. The least goes first."""

Served = Mapping[str, str]
"""What makes a replica's scores (`Scorer.provenance`)."""

ROW_ID = "id"
"""Column in which a parcel's rows are numbered: a result must bring the same numbers back."""


@dataclass(slots=True, eq=False)
class Item:
    """Rows of one call that travel together."""

    call: Call
    rows: Rows
    cost: int
    """Bytes; see `planning.shard.row_costs`."""

    order: Order
    group: int | None = None
    """Equal for items with the same prompt and reference; None where an item has several."""

    round: int = 0
    """The beginning of the call that it belongs to; see `Call.begin`."""

    @property
    def answered(self) -> bool:
        """Nobody waits for any of its rows any more."""
        call = self.call
        if self.round != call.round or call.left == 0:
            return True
        # The common case, without a look at the rows: nothing of the call is answered yet.
        return call.left < len(call.open) and not call.open[self.rows].any()


class _Load:
    """What items are together."""

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
class Parcel(_Load):
    """Items that travel to a replica together, and what has happened to them so far."""

    items: list[Item]
    order: Order
    digest: str | None = None
    """The model that must score it; None until a call's first item has left."""

    failures: int = 0
    """Times that a replica answered with an error instead of scores."""

    lost_on: frozenset[str] = frozenset()
    """Replicas that died, stopped or stalled while they held it."""

    losses: int = 0
    """How many these are, whatever they say."""

    suspicion: float = 0.0
    """How much these losses speak against it; see `isolation.Losses.weight`."""

    family: object = field(default_factory=object)
    """The same for a parcel and all parts that it was cut into."""

    trials_lost: int = 0
    """Replicas that it, a single record, took with it in trials of its own; see `isolation`."""

    void_trials: int = 0
    """Trials of it that showed nothing."""

    waiting: bool = False
    """It stands in a queue, or waits for the budget of repeats."""

    superseded: bool = False
    """It was cut, and its parts go their own ways."""

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

    def forget_answered(self) -> bool:
        """Drops the items that nobody waits for; whether any are left."""
        self.items = [item for item in self.items if not item.answered]
        return bool(self.items)

    def cancel_if_answered(self) -> None:
        """Calls its attempts off where nobody waits for them. A trial goes on: what it shows is of
        use to others."""
        if self.attempts and self.answered:
            for attempt in self.attempts:
                if not attempt.trial:
                    attempt.cancel()

    def part(self, items: list[Item]) -> Parcel:
        """Some of its rows as a parcel of their own, with the same past."""
        return replace(self, items=items, waiting=False, superseded=False, attempts=[])


@dataclass(slots=True, eq=False)
class Attempt(_Load):
    """A parcel at a replica."""

    member: Member
    parcel: Parcel
    items: tuple[Item, ...]
    """What left; the parcel may have been cut since."""

    number: int
    """Unique within a router; the rows' numbers begin with it."""

    began: float
    timeout_s: float
    """Until the last of its callers gives up."""

    task: asyncio.Task[pa.Table] | None = None
    trial: bool = False
    """Its replica is reserved for it; see `isolation`."""

    stalled: bool = False
    """It is far later than others were."""

    given_up: bool = False
    """Another replica may have it too; the first answer counts."""

    cancelled: bool = False
    settled: bool = False
    """It has ended, and what became of it has been acted upon."""

    def request(self) -> pa.Table:
        """Its rows as one request table, numbered in `ROW_ID`."""
        parts = [_taken(item) for item in self.items]
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


def _taken(item: Item) -> pa.Table:
    table = item.call.table
    whole = len(item.rows) == table.num_rows
    return table if whole else table.take(pa.array(item.rows))


class Call:
    """One caller's batch, what of it is still to be answered, and what has been."""

    def __init__(self, table: pa.Table, cut: Cut, order: Order, done: asyncio.Future[None]) -> None:
        self.table, self.cut, self.order, self.done = table, cut, order, done
        self.restarts = 0
        self.round = 0
        """Counts its beginnings; items of an earlier one are void."""

        self.digest: str | None = None
        """The model whose scores it has; decided when its first item leaves."""

        self.open = np.zeros(table.num_rows, dtype=bool)
        """Which rows have no answer yet."""

        self.left = 0
        """How many."""

        self.left_models: set[str] = set()
        """Models that left the pool, or a replica of it, while they scored it."""

        self.parcels: dict[Parcel, None] = {}
        """Those with rows of it that have left the queue at some time."""

        self._answers: list[tuple[Rows, pa.Table]] = []
        self._poison: list[int] = []

    def begin(self, poison: Sequence[int] = ()) -> list[Item]:
        """Its rows as items that nobody has answered yet, without those of `poison`, which are
        known to end replicas; forgets all that was."""
        self.end()
        self.digest = None
        self.open[:] = True
        self.left = len(self.open)
        self._poison = list(poison)
        if poison:
            self.open[self._poison] = False
            self.left -= len(self._poison)
        self._tell()
        items = []
        for rows, cost in zip(self.cut.rows, self.cut.costs, strict=True):
            scored = rows[self.open[rows]] if poison else rows
            if len(scored):
                items.append(Item(self, scored, cost, self.order, self.cut.group, self.round))
        return items

    def end(self) -> None:
        """Nobody waits for any of its items any more: replicas need not work on them."""
        parcels = list(self.parcels)
        self.round += 1
        self.left = 0
        self.parcels.clear()
        self._answers = []
        for parcel in parcels:
            parcel.cancel_if_answered()

    def cancel_answered(self, family: object) -> None:
        """Stops replicas from working on what other attempts of the same rows have answered."""
        for parcel in self.parcels:
            if parcel.family is family:
                parcel.cancel_if_answered()

    def answer(self, item: Item, result: pa.Table) -> None:
        """The rows of one item have their scores; the caller hears of the last."""
        rows = item.rows
        if self.left < len(self.open) and not (still := self.open[rows]).all():
            rows, result = rows[still], result.filter(pa.array(still))
        self._answers.append((rows, result))
        self._close(rows)

    def give_up(self, rows: Sequence[int]) -> None:
        """Those of these rows that have no answer are reported as such that end replicas."""
        still = [row for row in rows if self.open[row]]
        if still and self.left > 0:
            self._poison += still
            self._close(np.array(still))
            for parcel in list(self.parcels):
                parcel.cancel_if_answered()

    def _close(self, rows: Rows) -> None:
        self.open[rows] = False
        self.left -= len(rows)
        self._tell()

    def _tell(self) -> None:
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


def unanswered(items: Iterable[Item]) -> list[tuple[pa.Table, Rows]]:
    """Request tables, and those rows of each that never got an answer, whether anybody still waits
    for one or not."""
    pairs = ((item.call, item.rows[item.call.open[item.rows]]) for item in items)
    return [(call.table, rows) for call, rows in pairs if len(rows)]
