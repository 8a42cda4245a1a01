"""Dispatch: what happens to work between a caller and its scores.

Late binding: work waits in the router's queue until a replica has a free slot. What a replica does
not bring back goes to another; a record that kills replicas is cut out of its parcel and reported;
every row is answered once. Owns no clock and no connection: replicas are reached by the two
callables that it is given. Decides little by itself, see `pool.policy`. Knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from polar_ray.errors import PolarRayError, PoolError
from polar_ray.planning.shard import Cut
from polar_ray.pool import pulse
from polar_ray.pool.call import Call, gather
from polar_ray.pool.fate import Died, Refused, Send, Unreachable
from polar_ray.pool.policy import (
    EXPRESS_BYTES,
    LOSSES_ALONE,
    SLOTS,
    Item,
    Member,
    Pace,
    Parcel,
    RetryBudget,
    choose,
    split,
)
from polar_ray.pool.quarantine import Quarantine
from polar_ray.pool.queue import SCAN, Queue
from polar_ray.records import check_scores, poisoned_scores, provenance

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Errors of replicas for one parcel, after which the callers hear of the last."""

MAX_RESTARTS = 5
"""Changes of the model during one call, after which it ends."""

REST_S = 5.0
"""How long a replica is passed over that could not be reached or failed three times."""

REMEMBERED_GROUPS = 100_000
REMEMBERED_DEAD = 1_000


@dataclass(slots=True, eq=False)
class _Attempt:
    """A parcel at a replica."""

    member: Member
    parcel: Parcel
    began: float
    task: asyncio.Task[None] | None = None
    moved: bool = False
    """Its work has been given to another replica too; the first answer counts."""


class Dispatcher:
    """Brings every row of every call to a replica and its score back. For one event loop."""

    def __init__(
        self, send: Send, ask: pulse.Ask, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self._members: dict[str, Member] = {}
        self._provenance: dict[str, Mapping[str, str]] = {}
        self._queue = Queue()
        self._postponed: deque[Parcel] = deque()
        self._attempts: set[_Attempt] = set()
        self._pulses = pulse.Pulses(ask, self._hear)
        self._homes: OrderedDict[int, str] = OrderedDict()
        self._budget = RetryBudget()
        self._pace = Pace()
        self._quarantine = Quarantine()
        self._dead: dict[str, None] = {}
        self._number = 0
        self._woken = False
        self._over: str | None = None
        self.counters = dict.fromkeys(
            ("parcels", "rows", "deaths", "repeats", "convicted", "restarts"), 0
        )

    @property
    def members(self) -> Mapping[str, Member]:
        """The replicas that work may go to."""
        return self._members

    @property
    def served(self) -> Mapping[str, str] | None:
        """What one of the replicas scores with; None while there is no replica."""
        for member in self._members.values():
            if not member.gray:
                return self._provenance[member.digest]
        return None

    def set_members(self, names: Collection[str]) -> None:
        """The replicas that there are now; new ones get work once they have said what they serve.
        Those that left keep what they have in hand: a replica that is drained finishes it."""
        for name in names:
            # Who is known to be dead stays so, though it takes others a while to notice.
            if name not in self._members and name not in self._dead:
                self._members[name] = Member(name, gray=True)
                self._pulses.feel(self._members[name], self._clock())
        for name in self._members.keys() - set(names):
            del self._members[name]
        self._wake()

    def give_up(self, reason: str, *, held: bool = False) -> None:
        """No replica comes any more: what waits for one ends with a `PoolError`, now and from now
        on. What is with one may finish, unless `held`."""
        self._over = reason
        for attempt in self._attempts if held else ():
            for item in attempt.parcel.items:
                item.call.fail(PoolError(reason))
        self._wake()

    def _hear(self, member: Member, served: pulse.Served | None) -> None:
        """A replica has answered: it serves this, or loads another model."""
        member.gray = served is None
        if served is not None:
            self._learn(member, served)
        else:
            for attempt in [one for one in self._attempts if one.member is member]:
                self._move(attempt)
        self._wake()

    def _learn(self, member: Member, served: pulse.Served) -> None:
        member.digest = served.get("model_digest", "")
        self._provenance[member.digest] = served

    async def score(self, table: pa.Table, cut: Cut, *, rank: int, deadline: float) -> pa.Table:
        """The result table of a request table that is divided into `cut`.

        `deadline` (by this dispatcher's clock) orders and bounds the work; the caller ends the
        wait by cancelling it. Raises what replicas answered repeatedly instead of scores.
        """
        loop = asyncio.get_running_loop()
        self._number += 1
        call = Call(table, cut, (rank, deadline, self._number), loop.create_future())
        try:
            self._begin(call)
            await call.done
        finally:
            self._end(call)
        return call.result()

    def tick(self) -> None:
        """What time alone brings about; to be called about once a second."""
        now = self._clock()
        while self._postponed and self._budget.spend(now):
            self._queue.push(self._postponed.popleft())
        for attempt in self._attempts:
            if now - attempt.began > pulse.AFTER_S:
                self._pulses.feel(attempt.member, now)
        for member in self._members.values():
            if member.gray:
                self._pulses.feel(member, now)
        silent = self._pulses.silent(now)
        for attempt in list(self._attempts):
            if attempt.member in silent:
                self._move(attempt)
        self._hedge(now)
        self._wake()

    def _hedge(self, now: float) -> None:
        """Has a replica with a free slot repeat what a slow one is late with; the first answer
        counts. While work waits, no slot is free."""
        if self._queue:
            return
        free = [m for m in self._members.values() if len(m.parcels) < SLOTS and not m.gray]
        for attempt in list(self._attempts):
            known = attempt.parcel.avoid | {attempt.member.name}
            others = [m for m in free if m.name not in known]
            late = self._pace.overdue(attempt.parcel.cost, now - attempt.began)
            if others and late and not (attempt.moved or attempt.parcel.alone):
                self._move(attempt)
                free.remove(others[0])

    # The queue.

    def _begin(self, call: Call) -> None:
        for item in call.begin():
            self._queue.push(Parcel([item], item.order))
        known = self._quarantine.find(call.table, self._clock())
        for row in known:
            self._answer_for(call, row)
        self._wake()

    def _wake(self) -> None:
        """Lets all that comes within one turn of the event loop be sorted together."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Sends what can be sent, the most urgent first."""
        self._woken = False
        if self._over is not None:
            self._fail_waiting(self._over)
        now = self._clock()
        passed: list[Parcel] = []
        while self._has_slot() and len(passed) < SCAN and (parcel := self._queue.pop()):
            if self._model_gone(parcel):
                continue
            item = parcel.items[0]
            parcel.digest = parcel.digest or item.call.digest
            home = self._homes.get(item.group) if item.group is not None else None
            member = choose(self._members.values(), parcel, now, home)
            if member is None:
                passed.append(parcel)
                continue
            if parcel.fresh and parcel.cost <= EXPRESS_BYTES:
                self._fill(parcel, member)
            self._start(parcel, member, now)
        for parcel in passed:
            self._queue.push(parcel)

    def _fail_waiting(self, reason: str) -> None:
        while self._postponed:
            self._queue.push(self._postponed.popleft())
        while parcel := self._queue.pop():
            for item in parcel.items:
                item.call.fail(PoolError(reason))

    def _has_slot(self) -> bool:
        """Whether a look at the queue is worth while."""
        if not self._queue:
            return False
        rank = self._queue.rank
        return any(m.held(rank) <= SLOTS and not m.gray for m in self._members.values())

    def _model_gone(self, parcel: Parcel) -> bool:
        """Whether no replica serves the parcel's model any more; its calls begin again then."""
        digest = parcel.digest or parcel.items[0].call.digest
        serving = {member.digest for member in self._members.values()}
        if digest is None or not serving or digest in serving:
            return False
        for call in {item.call for item in parcel.items if item.call.digest == digest}:
            self._restart(call)
        return True

    def _fill(self, parcel: Parcel, member: Member) -> None:
        """Puts other small calls into a parcel that leaves: a fair share of them, so that the
        other free replicas get theirs."""
        rank = parcel.order[0]
        free = sum(max(0, SLOTS - m.held(rank)) for m in self._members.values())
        share = -(-(self._queue.num_small + 1) // max(1, free)) - 1

        def fits(item: Item) -> bool:
            if item.call.digest not in (None, member.digest):
                return False
            home = self._members.get(self._homes.get(item.group, "")) if item.group else None
            # Its group's replica will take it soon, with the prefix that it has at hand.
            return home is None or home is member or home.held(rank) > SLOTS

        self._queue.fill(parcel, share, fits)

    # On the way.

    def _start(self, parcel: Parcel, member: Member, now: float) -> None:
        parcel.digest = member.digest
        attempt = _Attempt(member, parcel, now)
        for item in parcel.items:
            item.call.digest = member.digest
            item.attempts.append(attempt)
            if item.group is not None:
                self._homes[item.group] = member.name
                self._homes.move_to_end(item.group)
        while len(self._homes) > REMEMBERED_GROUPS:
            self._homes.popitem(last=False)
        member.parcels.append(parcel)
        self._attempts.add(attempt)
        attempt.task = asyncio.get_running_loop().create_task(self._attempt(attempt))

    async def _attempt(self, attempt: _Attempt) -> None:
        member, parcel = attempt.member, attempt.parcel
        items = tuple(parcel.items)
        try:
            table = await gather(items)
            left = max(item.order[1] for item in items) - self._clock()
            result = await self._send(member.name, table, parcel.order, left)
            check_scores(result, table.num_rows)
        except Died:
            self._on_death(attempt)
        except Refused:
            self._members.pop(member.name, None)
            if not attempt.moved:
                self._queue.push(parcel)
        except Unreachable:
            member.resting_until = self._clock() + REST_S
            self._move(attempt)
        except Exception as error:  # whatever it is, the callers must hear of it
            self._on_failure(attempt, error)
        else:
            self._on_result(attempt, result)
        finally:
            self._attempts.discard(attempt)
            member.parcels.remove(parcel)
            if not member.parcels:
                member.reserved = False
            for item in items:
                item.attempts.remove(attempt)
            self._wake()

    def _on_result(self, attempt: _Attempt, result: pa.Table) -> None:
        member, parcel = attempt.member, attempt.parcel
        member.failed_in_a_row, member.gray = 0, False
        self._budget.earn()
        self._pace.learn(parcel.cost, self._clock() - attempt.began)
        self.counters["parcels"] += 1
        self.counters["rows"] += result.num_rows
        self._learn(member, provenance(result))
        start = 0
        for item in parcel.items:
            part = result.slice(start, len(item.rows))
            start += len(item.rows)
            if not item.answered:
                if item.call.digest == member.digest:
                    self._answer(item, part)
                else:
                    self._restart(item.call)

    def _answer(self, item: Item, result: pa.Table) -> None:
        item.call.answer(item, result)
        self._abandon(item)

    def _abandon(self, item: Item) -> None:
        """Stops replicas from working on what nobody waits for any more."""
        for attempt in item.attempts:
            if attempt.task is not asyncio.current_task() and all(
                one.answered for one in attempt.parcel.items
            ):
                attempt.task.cancel()

    def _end(self, call: Call) -> None:
        for item in call.items:
            item.answered = True
            self._abandon(item)
        call.items.clear()

    def _restart(self, call: Call) -> None:
        """Begins a call again, so that its scores are of one model."""
        self._end(call)
        call.restarts += 1
        self.counters["restarts"] += 1
        if call.restarts > MAX_RESTARTS:
            call.fail(PoolError(f"the pool changed its model {call.restarts} times in one call"))
        elif not call.done.done():
            self._begin(call)

    # When it goes wrong.

    def _on_death(self, attempt: _Attempt) -> None:
        """A replica died. What it held goes elsewhere; what is with two deaths goes in parts."""
        parcel = attempt.parcel
        self._bury(attempt.member.name)
        parcel.items = [item for item in parcel.items if not item.answered]
        if attempt.moved or not parcel.items:
            return
        parcel.losses += 1
        parcel.avoid |= {attempt.member.name}
        if parcel.guilty:
            self._convict(parcel.items[0])
        elif parcel.losses >= LOSSES_ALONE and parcel.num_rows > 1:
            for part in split(parcel):
                for item in part.items:
                    item.call.items.add(item)
                self._repeat(part)
        else:
            self._repeat(parcel)

    def _bury(self, name: str) -> None:
        self._members.pop(name, None)
        if name not in self._dead:
            self.counters["deaths"] += 1
            self._dead[name] = None
        if len(self._dead) > REMEMBERED_DEAD:
            del self._dead[next(iter(self._dead))]

    def _on_failure(self, attempt: _Attempt, error: Exception) -> None:
        member, parcel = attempt.member, attempt.parcel
        member.failed_in_a_row += 1
        if member.failed_in_a_row >= MAX_FAILURES:
            member.resting_until = self._clock() + REST_S
        parcel.failures += 1
        if attempt.moved or parcel.failures < MAX_FAILURES:
            self._move(attempt)
            return
        logger.warning("%s failed %s times, last: %s", member.name, parcel.failures, error)
        if not isinstance(error, PolarRayError):
            error = PoolError(f"replicas fail on this batch: {type(error).__name__}: {error}")
        for item in parcel.items:
            item.call.fail(error)

    def _move(self, attempt: _Attempt) -> None:
        """Gives a parcel to another replica, whatever becomes of it at this one."""
        if attempt.moved:
            return
        attempt.moved = True
        old = attempt.parcel
        avoid = old.avoid | {attempt.member.name}
        items = [item for item in old.items if not item.answered]
        self._repeat(Parcel(items, old.order, old.digest, old.losses, old.failures, avoid))

    def _repeat(self, parcel: Parcel) -> None:
        self.counters["repeats"] += 1
        if self._budget.spend(self._clock()):
            self._queue.push(parcel)
        else:
            self._postponed.append(parcel)

    def _convict(self, item: Item) -> None:
        """Reports a record that killed replicas, and remembers it."""
        [row] = item.rows
        logger.warning("a record that ends every replica that scores it is given up")
        self.counters["convicted"] += 1
        self._quarantine.add(item.call.table, int(row), self._clock())
        self._answer(item, poisoned_scores(self._provenance[item.call.digest]))

    def _answer_for(self, call: Call, row: int) -> None:
        """Answers one row that is known already, and takes it out of what is to be scored."""
        for item in list(call.items):
            at = np.flatnonzero(item.rows == row)
            if len(at) == 0:
                continue
            known = Item(call, item.rows[at], 0, item.order)
            item.rows = np.delete(item.rows, at)
            if len(item.rows) == 0:
                item.answered = True
                call.items.discard(item)
            self._answer(known, poisoned_scores(self.served or {}))
