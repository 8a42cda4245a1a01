"""Recovery: what becomes of work that a replica does not finish.

It is sent to another replica, within a budget; what is late is sent to one other, too; what
replicas are lost with is tried alone (`trials`); what only fails is reported to its callers. Knows
nothing of Ray, nor how ordinary work is placed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from polar_ray.errors import PolarRayError, PoolError, RecordError, ReplicaLost
from polar_ray.pool.router.call import calls_of
from polar_ray.pool.router.evidence import Evidence
from polar_ray.pool.router.health import Ask, Pace
from polar_ray.pool.router.isolation import Isolation
from polar_ray.pool.router.membership import Membership
from polar_ray.pool.router.outcome import Died, Refused, Reserve, Unreachable
from polar_ray.pool.router.placement import SLOTS, ready
from polar_ray.pool.router.quarantine import Quarantine
from polar_ray.pool.router.queue import Queue
from polar_ray.pool.router.retries import Repeats
from polar_ray.pool.router.trials import Start, Trials
from polar_ray.pool.router.work import Attempt, Member, Parcel

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Errors of replicas for one parcel, after which its callers get the last."""

COOLDOWN_S = 5.0
"""Of a replica that could not be reached or failed three times in a row."""

STALL_COOLDOWN_S = 15.0
"""Of a replica that is stuck: until then it goes on, or its watchdog ends it."""


class Recovery:
    """`start` sends a parcel to a replica; `changed` is called when there may be work to send or
    a replica to send it to, `poison_found` when the quarantine knows another record."""

    def __init__(
        self,
        queue: Queue,
        quarantine: Quarantine,
        ask: Ask,
        reserve: Reserve,
        *,
        start: Start,
        changed: Callable[[], None],
        poison_found: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._queue, self._quarantine, self._clock = queue, quarantine, clock
        self._poison_found = poison_found
        self._pace = Pace()
        self._repeats = Repeats(queue)
        self._isolation = Isolation()
        self.evidence = Evidence(self._isolation, clock)
        self.membership = Membership(
            ask,
            clock,
            changed=changed,
            loading=self._on_loading,
            lost=self._note_loss,
            left=self.evidence.blame_abandoned,
        )
        self._trials = Trials(
            self._isolation,
            self.membership,
            reserve,
            start,
            clock,
            report_poison=self._report_poison,
            remember=self.evidence.remember,
            give_up=self._give_up_trying,
            changed=changed,
        )
        self._num_poison = 0

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
            "poison": self._num_poison,
        }

    def tick(self, attempts: Collection[Attempt], now: float) -> None:
        """Acts on what only the clock tells; `attempts` are all that are out."""
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
        """Concludes the last trial, and gives the suspect whose turn is next."""
        self._trials.conclude(now)
        return self._isolation.first()

    def start_trial(self, suspect: Parcel, now: float) -> None:
        """Begins the trial of a suspect, unless it has to wait."""
        self._trials.begin(suspect, now)

    def release_all(self) -> None:
        """Puts all that waits here into the queue."""
        for parcel in (*self._repeats.take_all(), *self._isolation.take_all()):
            self._queue.push(parcel)

    def succeeded(self, attempt: Attempt) -> None:
        """An attempt brought its result."""
        member, now = attempt.member, self._clock()
        member.failed_in_a_row, member.cooldown_until = 0, 0.0
        member.unresponsive, member.heard_at = False, now
        member.stalled_on = frozenset()
        member.abandoned.clear()
        self._repeats.earn()
        if attempt.trial:
            for item in attempt.items:
                self.evidence.clear(item)
        else:
            self._pace.learn(attempt.cost, now - attempt.began)

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
        """A replica loads a model: others may finish what it holds sooner."""
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
        member.cool_down(now + COOLDOWN_S)
        self._note_loss(member)
        if self._isolation.on_trial(attempt):
            self._isolation.end_inconclusive()
        else:
            self._lose(attempt, now)

    def _note_loss(self, member: Member) -> None:
        """A replica was lost with all that it held."""
        held, now = member.attempts, self._clock()
        explained = any(map(self._isolation.on_trial, held))
        self.evidence.blame_abandoned(member)
        self._isolation.losses.note(held, member.stalled_on, now, explained=explained)

    def _lose(self, attempt: Attempt, now: float) -> None:
        """A replica was lost with this: it is sent to another, unless it is a suspect by now."""
        parcel = attempt.parcel
        if not (parcel.superseded or parcel.answered or self._suspected(attempt, now)):
            self._repeat(parcel)

    def _stall(self, attempt: Attempt, now: float) -> None:
        """A replica is stuck in this, or stopped. One other gets the work, too, and no third."""
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
        free = [m for m in ready(self.membership, now) if len(m.attempts) < SLOTS]
        for attempt in attempts:
            if not self._pace.overdue(attempt.cost, now - attempt.began):
                continue
            others = [
                m for m in free if m.name not in attempt.parcel.lost_on | {attempt.member.name}
            ]
            if self._isolation.on_trial(attempt) or attempt.parcel.stalled:
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
        member.cool_down(now + STALL_COOLDOWN_S)

    def _suspected(self, attempt: Attempt, now: float) -> bool:
        """Whether so much speaks against a parcel by now that it is tried alone. Replicas that
        still hold it may answer all the same."""
        parcel = attempt.parcel
        if not self._isolation.blame(parcel, attempt.member.name, now):
            return False
        parcel.superseded = True
        self._isolation.add(parcel)
        return True

    def _on_refusal(self, attempt: Attempt) -> None:
        # Unless Serve says that it is gone, it gets work again once it answers a heartbeat.
        attempt.member.serving = False
        parcel = attempt.parcel
        if self._isolation.on_trial(attempt):
            self._isolation.end_inconclusive()
        elif parcel.idle:
            self._queue.push(parcel)

    def _on_failure(self, attempt: Attempt, error: BaseException, now: float) -> None:
        """A replica answered with an error, of its own or because of something in the parcel."""
        member, parcel = attempt.member, attempt.parcel
        member.failed_in_a_row += 1
        if member.failed_in_a_row >= MAX_FAILURES:
            member.cool_down(now + COOLDOWN_S)
        parcel.failures += 1
        parcel.lost_on |= {member.name}
        on_trial = self._isolation.on_trial(attempt)
        if on_trial:
            self._isolation.end_inconclusive()
        if on_trial or parcel.idle:
            self._try_apart(parcel, error, again=not on_trial)

    def _try_apart(self, parcel: Parcel, error: BaseException, *, again: bool) -> None:
        """Halves a parcel that fails again: only callers whose rows fail get the error."""
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
        """Lets another replica have the work, whatever becomes of it at this one."""
        attempt.given_up = True
        if not self._isolation.on_trial(attempt):
            self._repeat(attempt.parcel)

    def _repeat(self, parcel: Parcel) -> None:
        """Sends a parcel again, unless it is wanted no more, or still somewhere."""
        if parcel.idle:
            self._repeats.add(parcel, self._clock())

    def _give_up_trying(self, parcel: Parcel) -> None:
        self._fail(parcel, ReplicaLost("replicas are lost again and again; send it again"))

    def _report_poison(self, parcel: Parcel) -> None:
        """Reports a record that ends replicas, and remembers it."""
        [item] = parcel.items
        [row] = item.rows
        logger.warning("a record that ends every replica that scores it is given up")
        self._num_poison += 1
        self._quarantine.add(item.call.table, int(row), self._clock())
        self.evidence.clear(item)
        self._poison_found()
