"""Dispatcher: what happens to work between a caller and its scores.

Late binding: work waits in the router's queue until a replica has a free slot. What a replica does
not bring back goes to another; what replicas are lost with is handed to `pool.isolation`; every row
is answered once. Owns no clock and no connection: replicas are reached by the two callables that it
is given. Knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

import pyarrow as pa

from polar_ray.errors import PolarRayError, PoolError, RecordError, ReplicaLost
from polar_ray.planning.shard import Cut
from polar_ray.pool.health import ASK_AFTER_S, Ask, Heartbeats, Pace
from polar_ray.pool.isolation import LONGEST_TRIAL_S, Isolation, Verdict
from polar_ray.pool.outcome import Died, Refused, Send, Unreachable
from polar_ray.pool.placement import EXPRESS_BYTES, SLOTS, Affinity, Member, choose, rested
from polar_ray.pool.quarantine import Quarantine
from polar_ray.pool.queue import SCAN, Queue
from polar_ray.pool.retries import RetryBudget
from polar_ray.pool.work import Attempt, Call, Item, Parcel, Served, calls_of
from polar_ray.records import provenance

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Errors of replicas for one parcel, after which its callers hear of the last."""

MAX_RESTARTS = 5
"""Changes of the model during one call, after which it ends."""

REST_S = 5.0
"""How long a replica is passed over that could not be reached or failed three times."""

STALL_REST_S = 15.0
"""The same for one that is stuck: meanwhile it comes back, or its watchdog ends it."""

REMEMBERED_DEAD = 1_000


class Dispatcher:
    """Brings every row of every call to a replica and its score back. For one event loop."""

    def __init__(
        self, send: Send, ask: Ask, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self._calls: dict[Call, None] = {}
        self._members: dict[str, Member] = {}
        self._dead: dict[str, None] = {}
        self._provenance: dict[str, Served] = {}
        self._served: Served | None = None
        self._queue = Queue()
        self._postponed: deque[Parcel] = deque()
        self._attempts: dict[Attempt, None] = {}
        self._heartbeats = Heartbeats(ask, self._hear)
        self._affinity = Affinity()
        self._budget = RetryBudget()
        self._pace = Pace()
        self._isolation = Isolation()
        self._quarantine = Quarantine()
        self._num_calls = self._num_attempts = 0
        self._woken = False
        self.counters = dict.fromkeys(
            ("parcels", "rows", "deaths", "repeats", "trials", "convicted", "restarts"), 0
        )

    @property
    def members(self) -> Mapping[str, Member]:
        """The replicas that work may go to."""
        return self._members

    @property
    def served(self) -> Served | None:
        """What one of the replicas scores with; None while there is no replica."""
        for member in self._members.values():
            if member.available:
                return self._provenance[member.digest]
        return None

    @property
    def held(self) -> dict[str, int]:
        """What is held at the moment; all 0 when nobody waits for anything."""
        members = {attempt.member for attempt in self._attempts} | {*self._members.values()}
        return {
            "open_calls": len(self._calls),
            "waiting_parcels": len(self._queue) + len(self._postponed) + len(self._isolation),
            "attempts": len(self._attempts),
            "held_slots": sum(len(member.attempts) for member in members),
        }

    async def score(self, table: pa.Table, cut: Cut, *, rank: int, deadline: float) -> pa.Table:
        """The result table of a request table that is divided into `cut`.

        `deadline` (by this dispatcher's clock) orders and bounds the work; the caller ends the
        wait by cancelling it. Raises what replicas answered repeatedly instead of scores.
        """
        self._num_calls += 1
        order = (rank, deadline, self._num_calls)
        call = Call(table, cut, order, asyncio.get_running_loop().create_future())
        self._calls[call] = None
        try:
            self._begin(call)
            await call.done
            return call.result(self._provenance.get(call.digest or "", self._served or {}))
        finally:
            del self._calls[call]
            self._end(call)

    def end_calls(self, error: Exception) -> None:
        """All callers hear this error, at once."""
        for call in self._calls:
            call.fail(error)

    # Who there is.

    def set_members(self, names: Collection[str]) -> None:
        """The replicas that there are now; new ones get work once they have said what they serve.
        Those that left keep what they have in hand: a replica that is drained finishes it."""
        for name in names:
            # Who is known to be dead stays so, though it takes others a while to notice.
            if name not in self._members and name not in self._dead:
                self._members[name] = Member(name)
                self._heartbeats.ask(self._members[name], self._clock())
        for name in [name for name in self._members if name not in names]:
            member = self._members.pop(name)
            if not member.attempts:
                self._heartbeats.forget(name)
        self._wake()

    def _hear(self, member: Member, served: Served | None) -> None:
        """A replica has answered: it serves this, or loads another model."""
        member.unresponsive = False
        if served is None:
            member.serving = False
            for attempt in list(member.attempts):
                self._give_up_on(attempt)
        else:
            if not member.serving:
                member.serving, member.serving_since = True, self._clock()
            self._learn(member, served)
        self._wake()

    def _learn(self, member: Member, served: Served) -> None:
        member.digest = served.get("model_digest", "")
        self._provenance[member.digest] = self._served = served

    def _mark_dead(self, attempt: Attempt, now: float) -> None:
        member = attempt.member
        self._members.pop(member.name, None)
        self._heartbeats.forget(member.name)
        if member.name in self._dead:
            return
        self.counters["deaths"] += 1
        self._isolation.losses.note([attempt, *member.attempts], member.stalled_on, now)
        self._dead[member.name] = None
        if len(self._dead) > REMEMBERED_DEAD:
            del self._dead[next(iter(self._dead))]

    # What time alone brings about.

    def tick(self) -> None:
        """To be called about twice a second."""
        now = self._clock()
        self._isolation.observe(self._members.values(), now)
        self._drop_answered()
        while self._postponed and self._budget.spend(now):
            self._queue.push(self._postponed.popleft())
        for attempt in self._attempts:
            if now - attempt.began > ASK_AFTER_S:
                self._heartbeats.ask(attempt.member, now)
        for member in self._members.values():
            if not member.available:
                self._heartbeats.ask(member, now)
        for member in self._heartbeats.overdue(now):
            self._mark_unresponsive(member, now)
        self._find_overdue(now)
        self._wake()

    def _drop_answered(self) -> None:
        """Forgets what waits for nobody; mostly there is nothing."""
        self._queue.drop_answered()
        self._isolation.drop_answered()
        wanted = (p for p in self._postponed if not p.superseded and p.forget_answered())
        self._postponed = deque(wanted)

    def _mark_unresponsive(self, member: Member, now: float) -> None:
        if not member.unresponsive:
            logger.warning("replica %s does not answer; its work goes elsewhere", member.name)
        member.unresponsive = True
        for attempt in list(member.attempts):
            self._stall(attempt, now)

    def _find_overdue(self, now: float) -> None:
        """Has a replica with a free slot repeat what a slow one is late with; the first answer
        counts. While work waits, no slot is free."""
        free = [m for m in rested(self._members.values(), now) if len(m.attempts) < SLOTS]
        for attempt in list(self._attempts):
            if not self._pace.overdue(attempt.cost, now - attempt.began):
                continue
            others = [
                m for m in free if m.name not in attempt.parcel.lost_on | {attempt.member.name}
            ]
            if attempt.trial or _hedged(attempt.parcel):
                self._stall(attempt, now)
            elif others and not self._queue and not attempt.given_up:
                free.remove(others[0])
                self._stall(attempt, now)

    def _stall(self, attempt: Attempt, now: float) -> None:
        """A replica is stuck in this, or stands. One other gets the work, too, and no third."""
        if self._isolation.on_trial(attempt):
            self._stall_trial(attempt, now)
            return
        if attempt.stalled:
            return
        self._note_stall(attempt, now)
        parcel = attempt.parcel
        if parcel.superseded:
            return
        if self._isolation.blame(parcel, attempt.member.name, now):
            self._suspect(parcel)
        elif sum(a.stalled for a in parcel.attempts) == 1:
            self._give_up_on(attempt)

    def _note_stall(self, attempt: Attempt, now: float) -> None:
        member = attempt.member
        if not member.stalled_on:
            self._isolation.losses.note(member.attempts, (), now)
        attempt.stalled = True
        member.stalled_on |= {held.parcel.family for held in member.attempts}
        member.resting_until = now + STALL_REST_S

    def _stall_trial(self, attempt: Attempt, now: float) -> None:
        """Several records are cut further at once; a single one is guilty only by a death."""
        if attempt.num_rows > 1 and not attempt.stalled:
            self._note_stall(attempt, now)
            self._isolation.lost(now, died=False)
        elif now - attempt.began > LONGEST_TRIAL_S:
            self._note_stall(attempt, now)
            self._isolation.show_nothing()
            attempt.cancel()

    # The queue.

    def _begin(self, call: Call) -> None:
        for item in call.begin(self._quarantine.find(call.table, self._clock())):
            self._queue.push(Parcel([item], item.order))
        self._wake()

    def _wake(self) -> None:
        """Lets all that comes within one turn of the event loop be sorted together."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Sends what can be sent, the most urgent first."""
        self._woken = False
        now = self._clock()
        self._conclude_trial(now)
        kept_free = self._try_suspect(now)
        members = [m for m in self._members.values() if m is not kept_free]
        passed: list[Parcel] = []
        while self._has_slot(members) and len(passed) < SCAN and (parcel := self._queue.pop()):
            if self._model_gone(parcel):
                continue
            item = parcel.items[0]
            parcel.digest = parcel.digest or item.call.digest
            member = choose(members, parcel, now, self._affinity.home(item.group))
            if member is None:
                passed.append(parcel)
                continue
            if parcel.fresh and parcel.cost <= EXPRESS_BYTES:
                self._fill(parcel, member)
            self._start(parcel, member, now)
        for parcel in passed:
            self._queue.push(parcel)

    def _has_slot(self, members: Iterable[Member]) -> bool:
        """Whether a look at the queue is worth while."""
        if not self._queue:
            return False
        rank = self._queue.rank
        return any(m.held(rank) <= SLOTS and m.available for m in members)

    def _model_gone(self, parcel: Parcel) -> bool:
        """Whether no replica serves the parcel's model any more; its calls begin again then."""
        digest = parcel.digest or parcel.items[0].call.digest
        serving = {member.digest for member in self._members.values() if member.digest}
        if digest is None or not serving or digest in serving:
            return False
        for call in calls_of(parcel.items):
            if call.digest == digest:
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
            home = self._members.get(self._affinity.home(item.group) or "")
            # Its group's replica will take it soon, with the prefix that it has at hand.
            return home is None or home is member or home.held(rank) > SLOTS

        self._queue.fill(parcel, share, fits)

    # On the way.

    def _start(self, parcel: Parcel, member: Member, now: float, *, trial: bool = False) -> Attempt:
        parcel.digest = member.digest
        for item in parcel.items:
            item.call.digest = member.digest
            item.call.parcels[parcel] = None
            self._affinity.remember(item.group, member.name)
        self._num_attempts += 1
        left = max(item.order[1] for item in parcel.items) - now
        attempt = Attempt(member, parcel, tuple(parcel.items), self._num_attempts, now, left)
        attempt.trial = trial
        for held in (member.attempts, parcel.attempts):
            held.append(attempt)
        self._attempts[attempt] = None
        attempt.task = asyncio.ensure_future(self._send(attempt))
        # A callback runs whatever becomes of the task, also if it is cancelled before it begins.
        attempt.task.add_done_callback(partial(self._on_done, attempt))
        return attempt

    def _on_done(self, attempt: Attempt, task: asyncio.Future[pa.Table]) -> None:
        """An attempt has ended, in whatever way: what it held is free again."""
        del self._attempts[attempt]
        attempt.member.attempts.remove(attempt)
        attempt.parcel.attempts.remove(attempt)
        try:
            self._settle(attempt, task)
        except Exception as error:
            logger.exception("a bug in the dispatcher")
            for call in calls_of(attempt.items):
                call.fail(PoolError(f"{type(error).__name__}: {error}"))
        self._wake()

    def _settle(self, attempt: Attempt, task: asyncio.Future[pa.Table]) -> None:
        now = self._clock()
        if task.cancelled():
            # Who cancelled it has seen to its rows; Serve may cancel, too.
            if not attempt.cancelled:
                self._on_unreachable(attempt, now)
            return
        error = task.exception()
        if error is None:
            try:
                result = attempt.check(task.result())
            except ValueError as broken:
                self._on_failure(attempt, broken, now)
            else:
                self._on_result(attempt, result, now)
        elif isinstance(error, Died):
            self._on_death(attempt, now)
        elif isinstance(error, Refused):
            self._on_refusal(attempt)
        elif isinstance(error, Unreachable):
            self._on_unreachable(attempt, now)
        else:
            self._on_failure(attempt, error, now)

    def _on_result(self, attempt: Attempt, result: pa.Table, now: float) -> None:
        member, parcel = attempt.member, attempt.parcel
        member.failed_in_a_row, member.resting_until = 0, 0.0
        member.stalled_on = frozenset()
        self._budget.earn()
        self._pace.learn(attempt.cost, now - attempt.began)
        self.counters["parcels"] += 1
        self.counters["rows"] += result.num_rows
        self._learn(member, provenance(result))
        start = 0
        for item in attempt.items:
            part = result.slice(start, len(item.rows))
            start += len(item.rows)
            if item.answered:
                continue
            if item.call.digest == member.digest:
                item.call.answer(item, part)
                self._cancel_answered(item.call, parcel.family)
            else:
                self._restart(item.call)

    def _cancel_answered(self, call: Call, family: object) -> None:
        """Stops replicas from working on what other attempts have answered."""
        for parcel in call.parcels:
            if parcel.family is family and parcel.attempts and parcel.answered:
                for attempt in parcel.attempts:
                    attempt.cancel()

    def _end(self, call: Call) -> None:
        """Stops replicas from working on what this caller does not wait for any more."""
        parcels = list(call.parcels)
        call.end()
        for parcel in parcels:
            if parcel.attempts and parcel.answered:
                for attempt in parcel.attempts:
                    attempt.cancel()

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

    def _on_death(self, attempt: Attempt, now: float) -> None:
        self._mark_dead(attempt, now)
        if self._isolation.on_trial(attempt):
            self._isolation.lost(now, died=True)
        else:
            self._lose(attempt, now)

    def _on_unreachable(self, attempt: Attempt, now: float) -> None:
        member = attempt.member
        member.resting_until = max(member.resting_until, now + REST_S)
        self._isolation.losses.note([attempt, *member.attempts], member.stalled_on, now)
        if self._isolation.on_trial(attempt):
            self._isolation.show_nothing()
        else:
            self._lose(attempt, now)

    def _lose(self, attempt: Attempt, now: float) -> None:
        """A replica was lost with this: it goes to another, or is a suspect by now."""
        parcel = attempt.parcel
        if parcel.superseded or parcel.answered:
            return
        if self._isolation.blame(parcel, attempt.member.name, now):
            self._suspect(parcel)
        else:
            self._repeat(parcel)

    def _on_refusal(self, attempt: Attempt) -> None:
        self._members.pop(attempt.member.name, None)
        parcel = attempt.parcel
        if self._isolation.on_trial(attempt):
            self._isolation.show_nothing()
        elif _is_nowhere(parcel):
            self._queue.push(parcel)

    def _on_failure(self, attempt: Attempt, error: BaseException, now: float) -> None:
        """A replica answered with an error: another may do better, or other work is its cause."""
        member, parcel = attempt.member, attempt.parcel
        member.failed_in_a_row += 1
        if member.failed_in_a_row >= MAX_FAILURES:
            member.resting_until = now + REST_S
        parcel.failures += 1
        parcel.lost_on |= {member.name}
        on_trial = self._isolation.on_trial(attempt)
        if on_trial:
            self._isolation.show_nothing()
        if on_trial or _is_nowhere(parcel):
            self._try_apart(parcel, error, again=not on_trial)

    def _try_apart(self, parcel: Parcel, error: BaseException, *, again: bool) -> None:
        """Callers who share a parcel that fails are told apart by halving it."""
        if len(parcel.items) > 1 and parcel.failures > 1:
            parcel.superseded = True
            half = len(parcel.items) // 2
            for items in (parcel.items[:half], parcel.items[half:]):
                self._repeat(parcel.part(items))
        elif parcel.failures >= MAX_FAILURES or isinstance(error, RecordError):
            self._fail(parcel, error)
        elif again:
            self._repeat(parcel)

    def _fail(self, parcel: Parcel, error: BaseException) -> None:
        logger.warning("replicas failed %s times on a batch, last: %s", parcel.failures, error)
        if not isinstance(error, PolarRayError):
            error = PoolError(f"replicas fail on this batch: {type(error).__name__}: {error}")
        for call in calls_of(parcel.items):
            call.fail(error)

    def _give_up_on(self, attempt: Attempt) -> None:
        """Lets another replica have a go, whatever becomes of it at this one."""
        attempt.given_up = True
        if not self._isolation.on_trial(attempt):
            self._repeat(attempt.parcel)

    def _repeat(self, parcel: Parcel) -> None:
        """Sends a parcel again, unless it is wanted no more, or still somewhere."""
        if not _is_nowhere(parcel):
            return
        self.counters["repeats"] += 1
        if self._budget.spend(self._clock()):
            self._queue.push(parcel)
        else:
            parcel.waiting = True
            self._postponed.append(parcel)

    # Who is to blame.

    def _suspect(self, parcel: Parcel) -> None:
        """Hands a parcel to its trials; what still has it may answer all the same."""
        parcel.superseded = True
        self._isolation.add(parcel)

    def _try_suspect(self, now: float) -> Member | None:
        """Begins the next trial, or says which replica is to become empty for it."""
        parcel = self._isolation.next(now)
        if parcel is None or self._model_gone(parcel):
            return None
        member = self._isolation.place(parcel, self._members.values(), now)
        if member is None or member.attempts:
            return member
        self.counters["trials"] += 1
        self._isolation.begin(self._start(parcel, member, now, trial=True))
        return None

    def _conclude_trial(self, now: float) -> None:
        concluded = self._isolation.verdict(now)
        if concluded is None:
            return
        parcel, found = concluded
        if found is Verdict.VOID:
            if not self._isolation.try_again(parcel):
                self._fail(parcel, ReplicaLost("replicas are lost again and again; send it again"))
        elif found is Verdict.LOST:
            parcel.superseded = True
            if self._isolation.is_poison(parcel):
                self._convict(parcel, now)
            else:
                self._isolation.add_parts(parcel)

    def _convict(self, parcel: Parcel, now: float) -> None:
        """Reports a record that ends replicas, and remembers it."""
        [item] = parcel.items
        [row] = item.rows
        logger.warning("a record that ends every replica that scores it is given up")
        self.counters["convicted"] += 1
        self._quarantine.add(item.call.table, int(row), now)
        item.call.give_up(int(row))
        self._cancel_answered(item.call, parcel.family)


def _hedged(parcel: Parcel) -> bool:
    """Whether one replica has stalled on it already."""
    return any(attempt.stalled for attempt in parcel.attempts)


def _is_nowhere(parcel: Parcel) -> bool:
    """Whether a parcel is wanted, does not wait, and nobody is relied on to bring it home."""
    relied_on = any(not attempt.given_up for attempt in parcel.attempts)
    return not (parcel.waiting or parcel.superseded or relied_on or parcel.answered)
