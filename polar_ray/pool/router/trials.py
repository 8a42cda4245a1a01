"""Trials: has suspects tried as `pool.router.isolation` decides, and tells what came of it.

Knows neither Ray nor the queue of ordinary work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from polar_ray.pool.router.isolation import LONGEST_TRIAL_S, RESERVE_S, Isolation, Trial, Verdict
from polar_ray.pool.router.membership import Membership
from polar_ray.pool.router.outcome import Died, Reserve
from polar_ray.pool.router.placement import Member
from polar_ray.pool.router.work import Attempt, Parcel, unanswered

REST_S = 30.0
"""How long a replica is passed over that could not be reserved: it may be stuck."""


class Start(Protocol):
    """Sends a parcel to a replica."""

    def __call__(self, parcel: Parcel, member: Member, now: float, *, trial: bool) -> Attempt: ...


class Trials:
    """One at a time. `convict` is called with a parcel of one record that is poison, `remember`
    with one that was lost and for which nobody waits, `give_up` with one of which nothing could be
    found out."""

    def __init__(
        self,
        isolation: Isolation,
        membership: Membership,
        reserve: Reserve,
        start: Start,
        clock: Callable[[], float],
        *,
        convict: Callable[[Parcel], None],
        remember: Callable[[Parcel], None],
        give_up: Callable[[Parcel], None],
        changed: Callable[[], None],
    ) -> None:
        self._isolation, self._membership = isolation, membership
        self._reserve, self._start, self._clock = reserve, start, clock
        self._convict, self._remember = convict, remember
        self._give_up, self._changed = give_up, changed
        self._reserving: asyncio.Future[None] | None = None
        self.count = 0
        """Trials that were begun."""

    def begin(self, parcel: Parcel, now: float) -> None:
        """Has a replica become empty for the first suspect, if it may be tried now."""
        trial = self._isolation.next_trial(parcel, self._membership, now)
        if trial is None:
            return
        self.count += 1
        trial.member.reserved = True
        self._reserving = asyncio.ensure_future(self._reserve(trial.member.name))
        self._reserving.add_done_callback(partial(self._on_reserved, trial))

    def _on_reserved(self, trial: Trial, task: asyncio.Future[None]) -> None:
        """The replica has nothing else to do, or is not to be had."""
        now = self._clock()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Died):
            self._membership.mark_dead(trial.member)
        # Nobody may wait for it any more, but what it shows is of use when it is sent again.
        wanted = bool(unanswered(trial.parcel.items))
        if task.cancelled() or error is not None or not trial.fits or not wanted:
            if error is not None or task.cancelled():
                trial.member.resting_until = max(trial.member.resting_until, now + REST_S)
            trial.member.reserved = False
            self._isolation.postpone()
        else:
            trial.attempt = self._start(trial.parcel, trial.member, now, trial=True)
            trial.began = trial.attempt.began
        self._changed()

    def watch(self, now: float) -> None:
        """What time alone brings about."""
        trial = self._isolation.trial
        if trial is None:
            return
        if trial.attempt is None and now - trial.began > RESERVE_S and self._reserving is not None:
            self._reserving.cancel()
        if trial.lost_at is not None:
            for witness in trial.witnesses:
                self._membership.ask(witness, now)

    def stall(self, attempt: Attempt, now: float) -> bool:
        """The trial is far later than others were; whether that ends it. Several records are cut
        further at once, a single one is guilty only by a death."""
        if attempt.num_rows > 1:
            self._isolation.lost(now)
            return not attempt.stalled
        if now - attempt.began > LONGEST_TRIAL_S:
            self._isolation.show_nothing()
            attempt.cancel()
            return True
        return False

    def conclude(self, now: float) -> None:
        """Acts on what the trial has shown, once that is known."""
        concluded = self._isolation.verdict(now)
        if concluded is None:
            return
        trial, found = concluded
        parcel, trial.member.reserved = trial.parcel, False
        if found is Verdict.VOID:
            if not parcel.superseded and not self._isolation.try_again(parcel):
                self._give_up(parcel)
        elif found is Verdict.LOST:
            parcel.superseded = True
            if self._isolation.is_poison(parcel):
                self._convict(parcel)
            elif parcel.answered:
                self._remember(parcel)
            else:
                self._isolation.add_parts(parcel)
