"""Recovery: what becomes of work that does not come home.

It goes to another replica, within a budget; what is late goes to one other, too; what replicas are
lost with is handed to trials; what only fails is told to its callers. Knows nothing of Ray, nor how
ordinary work is placed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

import numpy as np

from polar_ray.errors import PolarRayError, PoolError, RecordError, ReplicaLost
from polar_ray.planning.shard import Rows
from polar_ray.pool.router.health import Ask, Pace
from polar_ray.pool.router.isolation import SUSPECT, Isolation
from polar_ray.pool.router.membership import Membership
from polar_ray.pool.router.outcome import Died, Refused, Reserve, Unreachable
from polar_ray.pool.router.placement import SLOTS, Member, rested
from polar_ray.pool.router.quarantine import Quarantine, Suspicions
from polar_ray.pool.router.queue import Queue
from polar_ray.pool.router.retries import Repeats
from polar_ray.pool.router.trials import Start, Trials
from polar_ray.pool.router.work import Attempt, Call, Item, Parcel, calls_of, unanswered

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Errors of replicas for one parcel, after which its callers hear of the last."""

REST_S = 5.0
"""How long a replica is passed over that could not be reached or failed three times."""

STALL_REST_S = 15.0
"""The same for one that is stuck: meanwhile it comes back, or its watchdog ends it."""


class Recovery:
    """`start` sends a parcel to a replica; `changed` is called when there may be work to send or
    a replica to send it to, `convicted` when the quarantine knows another record."""

    def __init__(
        self,
        queue: Queue,
        quarantine: Quarantine,
        ask: Ask,
        reserve: Reserve,
        *,
        start: Start,
        changed: Callable[[], None],
        convicted: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._queue, self._quarantine, self._clock = queue, quarantine, clock
        self._convicted_now = convicted
        self.membership = Membership(
            ask,
            clock,
            changed=changed,
            loading=self._on_loading,
            lost=self._note_loss,
            left=self._blame_left_behind,
        )
        self._pace = Pace()
        self._repeats = Repeats(queue)
        self._suspicions = Suspicions()
        self._isolation = Isolation()
        self._trials = Trials(
            self._isolation,
            self.membership,
            reserve,
            start,
            clock,
            convict=self._convict,
            remember=self._remember,
            give_up=self._give_up_trying,
            changed=changed,
        )
        self._convicted = 0

    def __len__(self) -> int:
        """Parcels that wait for the budget of repeats or for a trial."""
        return len(self._repeats) + len(self._isolation)

    @property
    def counters(self) -> dict[str, int]:
        """What was done since the start: sums that only grow."""
        return {
            "deaths": self.membership.num_deaths,
            "repeats": self._repeats.count,
            "trials": self._trials.count,
            "convicted": self._convicted,
        }

    def tick(self, attempts: Collection[Attempt], now: float) -> None:
        """What time alone brings about, for all that is on its way."""
        self._isolation.observe(self.membership, now)
        self._isolation.drop_answered()
        self._repeats.drop_answered()
        self._repeats.release(now)
        for member in self.membership.check(attempts, now):
            for attempt in list(member.attempts):
                self._stall(attempt, now)
        self._find_overdue(list(attempts), now)
        self._trials.watch(now)

    def next_suspect(self, now: float) -> Parcel | None:
        """The parcel that is to be tried alone next, after what the last trial has shown."""
        self._trials.conclude(now)
        return self._isolation.first()

    def try_alone(self, suspect: Parcel, now: float) -> None:
        """Begins the trial of a suspect, if this is the moment for it."""
        self._trials.begin(suspect, now)

    def send_all(self) -> None:
        """Puts all that waits here into the queue."""
        for parcel in (*self._repeats.take_all(), *self._isolation.take_all()):
            self._queue.push(parcel)

    def came_home(self, attempt: Attempt) -> None:
        """An attempt brought its result."""
        member, now = attempt.member, self._clock()
        member.failed_in_a_row, member.resting_until = 0, 0.0
        member.unresponsive, member.heard_at = False, now
        member.stalled_on = frozenset()
        member.left_behind.clear()
        if attempt.trial:
            for item in attempt.items:
                self._suspicions.forget(item.call.table, item.rows)
        self._repeats.earn()
        if not attempt.trial:
            self._pace.learn(attempt.cost, now - attempt.began)

    def set_aside(self, items: list[Item], now: float) -> list[Item]:
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
        suspect = Parcel([part], item.order, suspicion=SUSPECT, trials_lost=trials_lost)
        self._isolation.add(suspect)

    def leave(self, call: Call) -> None:
        """A caller is about to leave: what speaks against its records is kept."""
        stalled = [p for p in call.parcels if any(attempt.stalled for attempt in p.attempts)]
        for parcel in (*stalled, *self._isolation.of(call)):
            self._remember(parcel)

    def left_behind(self, attempt: Attempt) -> None:
        """Nobody waits for this any more, and nobody knows what became of it."""
        attempt.member.left_behind.append(attempt)

    def recover(self, attempt: Attempt, error: BaseException) -> None:
        """An attempt ended without a result."""
        now = self._clock()
        if isinstance(error, Died):
            self._on_death(attempt, now)
        elif isinstance(error, Refused):
            self._on_refusal(attempt)
        elif isinstance(error, Unreachable):
            self._on_unreachable(attempt, now)
        else:
            self._on_failure(attempt, error, now)

    def _on_loading(self, member: Member) -> None:
        """What a replica holds that loads a model may be done elsewhere sooner."""
        for attempt in list(member.attempts):
            self._give_up_on(attempt)

    def _on_death(self, attempt: Attempt, now: float) -> None:
        self.membership.mark_dead(attempt.member)
        if self._isolation.on_trial(attempt):
            self._isolation.lost(now)
        else:
            self._lose(attempt, now)

    def _on_unreachable(self, attempt: Attempt, now: float) -> None:
        member = attempt.member
        member.resting_until = max(member.resting_until, now + REST_S)
        self._note_loss(member)
        if self._isolation.on_trial(attempt):
            self._isolation.show_nothing()
        else:
            self._lose(attempt, now)

    def _note_loss(self, member: Member) -> None:
        """A replica was lost with all that it held."""
        held, now = member.attempts, self._clock()
        explained = any(map(self._isolation.on_trial, held))
        self._blame_left_behind(member)
        self._isolation.losses.note(held, member.stalled_on, now, explained=explained)

    def _blame_left_behind(self, member: Member) -> None:
        """A replica went without another word after these callers left: it may have been stuck."""
        now = self._clock()
        for attempt in member.left_behind:
            weight = self._isolation.losses.weight(attempt.parcel, now)
            self._suspect_later(attempt.items, weight)
        member.left_behind.clear()

    def _lose(self, attempt: Attempt, now: float) -> None:
        """A replica was lost with this: it goes to another, or is a suspect by now."""
        parcel = attempt.parcel
        if not (parcel.superseded or parcel.answered or self._suspected(attempt, now)):
            self._repeat(parcel)

    def _stall(self, attempt: Attempt, now: float) -> None:
        """A replica is stuck in this, or stands. One other gets the work, too, and no third."""
        parcel = attempt.parcel
        if self._isolation.on_trial(attempt):
            if self._trials.stall(attempt, now):
                self._note_stall(attempt, now)
        elif not attempt.stalled:
            self._note_stall(attempt, now)
            suspected = parcel.superseded or self._suspected(attempt, now)
            if not suspected and sum(other.stalled for other in parcel.attempts) == 1:
                self._give_up_on(attempt)

    def _find_overdue(self, attempts: list[Attempt], now: float) -> None:
        """Has a replica with a free slot repeat what a slow one is late with; the first answer
        counts. While work waits, no slot is free."""
        free = [m for m in rested(self.membership, now) if len(m.attempts) < SLOTS]
        for attempt in attempts:
            if not self._pace.overdue(attempt.cost, now - attempt.began):
                continue
            others = [
                m for m in free if m.name not in attempt.parcel.lost_on | {attempt.member.name}
            ]
            if self._isolation.on_trial(attempt) or _hedged(attempt.parcel):
                self._stall(attempt, now)
            elif others and not self._queue and not attempt.given_up:
                free.remove(others[0])
                self._stall(attempt, now)

    def _note_stall(self, attempt: Attempt, now: float) -> None:
        member = attempt.member
        if not member.stalled_on:
            self._note_loss(member)
        attempt.stalled = True
        member.stalled_on |= {held.parcel.family for held in member.attempts}
        member.resting_until = now + STALL_REST_S

    def _suspected(self, attempt: Attempt, now: float) -> bool:
        """Whether so much speaks against a parcel by now that it is handed to its trials. What
        still has it may answer all the same."""
        parcel = attempt.parcel
        if not self._isolation.blame(parcel, attempt.member.name, now):
            return False
        parcel.superseded = True
        self._isolation.add(parcel)
        return True

    def _on_refusal(self, attempt: Attempt) -> None:
        # Serve says who is gone; until then it gets work again once it answers a heartbeat.
        attempt.member.serving = False
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
            if not again:
                self._isolation.add_parts(parcel)
                return
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
        if _is_nowhere(parcel):
            self._repeats.add(parcel, self._clock())

    def _give_up_trying(self, parcel: Parcel) -> None:
        self._fail(parcel, ReplicaLost("replicas are lost again and again; send it again"))

    def _convict(self, parcel: Parcel) -> None:
        """Reports a record that ends replicas, and remembers it."""
        [item] = parcel.items
        [row] = item.rows
        logger.warning("a record that ends every replica that scores it is given up")
        self._convicted += 1
        self._quarantine.add(item.call.table, int(row), self._clock())
        self._suspicions.forget(item.call.table, item.rows)
        self._convicted_now()

    def _remember(self, parcel: Parcel) -> None:
        """Nobody may wait for a suspect any more, but it will be sent again."""
        self._suspect_later(parcel.items, parcel.suspicion, parcel.trials_lost)

    def _suspect_later(self, items: Iterable[Item], weight: float, trials_lost: int = 0) -> None:
        now = self._clock()
        for table, rows in unanswered(items):
            self._suspicions.add(table, rows, now, weight=weight, trials_lost=trials_lost)


def _hedged(parcel: Parcel) -> bool:
    """Whether one replica has stalled on it already."""
    return any(attempt.stalled for attempt in parcel.attempts)


def _is_nowhere(parcel: Parcel) -> bool:
    """Whether a parcel is wanted, does not wait, and nobody is relied on to bring it home."""
    relied_on = any(not attempt.given_up for attempt in parcel.attempts)
    return not (parcel.waiting or parcel.superseded or relied_on or parcel.answered)
