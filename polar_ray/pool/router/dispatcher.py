"""Dispatcher: the way of work from a caller to replicas and back.

A call's rows wait in the router's queue until a replica has a free slot; every row is answered
once. What a replica does not finish is handed to `recovery`. Replicas are reached by the callables
that it is given, time is the clock that it is given. Knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial

import pyarrow as pa

from polar_ray.errors import PoolError
from polar_ray.planning.shard import Shards
from polar_ray.pool.router.affinity import Affinity
from polar_ray.pool.router.call import Call, Item, Served, calls_of
from polar_ray.pool.router.calls import Calls
from polar_ray.pool.router.health import Ask
from polar_ray.pool.router.isolation import LONGEST_TRIAL_S
from polar_ray.pool.router.outcome import Reserve, Send, Unreachable
from polar_ray.pool.router.placement import any_slot, choose, fair_share, may_join
from polar_ray.pool.router.quarantine import Quarantine
from polar_ray.pool.router.queue import Queue
from polar_ray.pool.router.recovery import Recovery
from polar_ray.pool.router.work import Attempt, Member, Parcel
from polar_ray.scores import provenance
from polar_ray.sizes import LOOKAHEAD, SMALL_BYTES

logger = logging.getLogger(__name__)

MAX_RESTARTS = 5
"""Changes of the model during one call, after which it fails."""


class Dispatcher:
    """Has every row of every call scored. For one event loop."""

    def __init__(
        self,
        send: Send,
        ask: Ask,
        reserve: Reserve,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send, self._clock = send, clock
        self._calls = Calls()
        self._queue = Queue()
        self._attempts: dict[Attempt, None] = {}
        self._affinity = Affinity()
        self._quarantine = Quarantine()
        self._recovery = Recovery(
            self._queue,
            self._quarantine,
            ask,
            reserve,
            start=self._start,
            changed=self._wake,
            poison_found=self._report_poison,
            clock=clock,
        )
        self._membership = self._recovery.membership
        self._num_calls = self._num_attempts = 0
        self._parcels = self._rows = self._restarts = 0
        self._woken = False
        self._over: str | None = None

    @property
    def members(self) -> Mapping[str, Member]:
        """The replicas that work may go to, by name."""
        return self._membership.members

    @property
    def served(self) -> Served | None:
        """What one of the replicas scores with; None while there is no replica."""
        return self._membership.served

    @property
    def counters(self) -> dict[str, int]:
        """What was done since the start: sums that only grow."""
        return {
            "parcels": self._parcels,
            "rows": self._rows,
            **self._recovery.counters,
            "restarts": self._restarts,
        }

    @property
    def held(self) -> dict[str, int]:
        """What is held at the moment; all 0 when nobody waits for anything."""
        members = {attempt.member for attempt in self._attempts}.union(self._membership)
        return {
            "open_calls": len(self._calls),
            "waiting_parcels": len(self._queue) + len(self._recovery),
            "attempts": len(self._attempts),
            "held_parcels": sum(len(member.attempts) for member in members),
        }

    @property
    def queued_bytes(self) -> int:
        """What waits for a replica with a free slot."""
        return self._queue.cost

    def set_members(self, names: Collection[str]) -> None:
        """The replicas that there are now; see `Membership.set`."""
        self._membership.set(names)

    async def ask_available(self, timeout_s: float) -> None:
        """Hears of replicas that have nothing to do whether they still could do it."""
        if heartbeats := self._membership.ask_available():
            await asyncio.wait(heartbeats, timeout=timeout_s)

    async def score(
        self, table: pa.Table, shards: Shards, *, rank: int, deadline: float
    ) -> pa.Table:
        """The result table of a request table that is divided into `shards`.

        `deadline` (by this dispatcher's clock) orders and bounds the work; the caller ends the
        wait by cancelling it. Raises what replicas answered repeatedly instead of scores.
        """
        self._num_calls += 1
        urgency = (rank, deadline, self._num_calls)
        call = Call(table, shards, urgency, asyncio.get_running_loop().create_future())
        self._calls.add(call)
        try:
            self._begin(call)
            await call.done
            return call.result(self._membership.provenance(call.digest))
        finally:
            self._recovery.evidence.keep(call, self._calls.sent_for(call))
            self._calls.remove(call)

    def give_up(self, reason: str, *, held: bool = False) -> None:
        """No replica will come: calls that wait for one fail with a `PoolError`, from now on, too.
        Calls whose work is at a replica may finish, unless `held`."""
        self._over = reason
        if held:
            for call in self._calls:
                call.fail(PoolError(reason))
        self._wake()

    def tick(self) -> None:
        """Acts on what only the clock tells; to be called about twice a second."""
        now = self._clock()
        self._queue.drop_answered()
        self._recovery.tick(self._attempts, now)
        self._wake()

    # Calls.

    def _begin(self, call: Call) -> None:
        now = self._clock()
        items = call.begin(self._quarantine.find(call.table, now))
        for item in self._recovery.evidence.divert_suspects(items, now):
            self._queue.push(Parcel([item], item.urgency))
        self._wake()

    def _report_poison(self) -> None:
        """A record was found to be poison: all calls that have sent the same get it reported."""
        now = self._clock()
        for call in self._calls:
            if call.report_poison(self._quarantine.find(call.table, now)):
                self._calls.cancel_answered(call)

    def _restart(self, call: Call) -> None:
        """Begins a call again, so that its scores are of one model."""
        if call.digest is not None:
            call.left_models.add(call.digest)
        self._calls.end(call)
        call.restarts += 1
        self._restarts += 1
        if call.restarts > MAX_RESTARTS:
            call.fail(PoolError(f"the pool changed its model {call.restarts} times in one call"))
        elif not call.done.done():
            self._begin(call)

    # The queue.

    def _wake(self) -> None:
        """Sends at the end of this turn of the event loop, so that all calls of it are sorted."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Sends what can be sent, the most urgent first."""
        self._woken = False
        if self._over is not None:
            self._fail_waiting(self._over)
        now = self._clock()
        suspect = self._recovery.next_suspect(now)
        if suspect is not None and not self._model_gone(suspect):
            self._recovery.start_trial(suspect, now)
        skipped: list[Parcel] = []
        while len(skipped) < LOOKAHEAD and self._has_slot() and (parcel := self._queue.pop()):
            if self._model_gone(parcel):
                continue
            item = parcel.items[0]
            parcel.digest = parcel.digest or item.call.digest
            member = choose(self._membership, parcel, now, self._preferred(item))
            if member is None:
                skipped.append(parcel)
                continue
            if parcel.fresh and parcel.cost <= SMALL_BYTES:
                self._fill(parcel, member)
            self._start(parcel, member, now)
        for parcel in skipped:
            self._queue.push(parcel)

    def _preferred(self, item: Item) -> Member | None:
        return self.members.get(self._affinity.find(item.group))

    def _fail_waiting(self, reason: str) -> None:
        self._recovery.release_all()
        while parcel := self._queue.pop():
            for call in calls_of(parcel.items):
                call.fail(PoolError(reason))

    def _has_slot(self) -> bool:
        return bool(self._queue) and any_slot(self._membership, self._queue.rank)

    def _model_gone(self, parcel: Parcel) -> bool:
        """Whether no replica serves the parcel's model any more; its calls begin again then."""
        digest = parcel.digest or parcel.items[0].call.digest
        if digest is None or self._membership.serves(digest, self._clock()):
            return False
        for call in calls_of(parcel.items):
            if call.digest == digest:
                self._restart(call)
        return True

    def _fill(self, parcel: Parcel, member: Member) -> None:
        """Puts other small calls into a parcel that is about to be sent."""
        share = fair_share(self._membership, parcel.urgency[0], self._queue.num_small)
        self._queue.fill(parcel, share, lambda item: may_join(item, member, self._preferred(item)))

    # Attempts.

    def _start(self, parcel: Parcel, member: Member, now: float, *, trial: bool = False) -> Attempt:
        parcel.digest = member.digest
        self._calls.note_sent(parcel)
        for item in parcel.items:
            item.call.digest = member.digest
            self._affinity.remember(item.group, member.name)
        self._num_attempts += 1
        left = LONGEST_TRIAL_S if trial else max(item.urgency[1] for item in parcel.items) - now
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
        attempt.parcel.attempts.remove(attempt)
        try:
            self._settle(attempt, task)
        except Exception as error:
            logger.exception("a bug in the dispatcher")
            for call in calls_of(attempt.items):
                call.fail(PoolError(f"{type(error).__name__}: {error}"))
        finally:
            attempt.settled = True
            attempt.member.attempts.remove(attempt)
            self._wake()

    def _settle(self, attempt: Attempt, task: asyncio.Future[pa.Table]) -> None:
        if task.cancelled():
            # Who cancelled it has seen to its rows; Serve may cancel, too.
            if attempt.cancelled:
                attempt.member.abandoned.append(attempt)
            else:
                self._recovery.recover(attempt, Unreachable())
            return
        if (error := task.exception()) is not None:
            self._recovery.recover(attempt, error)
            return
        try:
            result = attempt.check(task.result())
        except ValueError as broken:
            self._recovery.recover(attempt, broken)
        else:
            self._on_result(attempt, result)

    def _on_result(self, attempt: Attempt, result: pa.Table) -> None:
        member, parcel = attempt.member, attempt.parcel
        self._membership.learn(member, provenance(result))
        self._recovery.succeeded(attempt)
        self._parcels += 1
        self._rows += result.num_rows
        start = 0
        for item in attempt.items:
            part = result.slice(start, len(item.rows))
            start += len(item.rows)
            if item.answered:
                continue
            if item.call.digest == member.digest:
                item.call.answer(item, part)
                self._calls.cancel_answered(item.call, parcel.family)
            else:
                self._restart(item.call)
