"""Trials: reserves a replica for each suspect, sends it, and acts on the result.

When, where and what a trial has shown is decided in `isolation`. Knows neither Ray nor the queue of
ordinary work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from polar_ray.pool.router.isolation import (
    LONGEST_TRIAL_S,
    RESERVE_S,
    Isolation,
    Trial,
    TrialResult,
)
from polar_ray.pool.router.membership import Membership
from polar_ray.pool.router.outcome import Died, Reserve, Unreachable
from polar_ray.pool.router.work import Attempt, Member, Parcel

RESERVE_COOLDOWN_S = 30.0
"""Cooldown of a replica that could not be reserved: it may be stuck."""


class Start(Protocol):
    """Sends a parcel to a replica."""

    def __call__(self, parcel: Parcel, member: Member, now: float, *, trial: bool) -> Attempt: ...


class Trials:
    """One at a time. Called with a parcel: `report_poison` if it is one record and poison,
    `remember` if its trial was lost and nobody waits for it, `give_up` after too many inconclusive
    trials."""

    def __init__(
        self,
        isolation: Isolation,
        membership: Membership,
        reserve: Reserve,
        start: Start,
        clock: Callable[[], float],
        *,
        report_poison: Callable[[Parcel], None],
        remember: Callable[[Parcel], None],
        give_up: Callable[[Parcel], None],
        changed: Callable[[], None],
    ) -> None:
        self._isolation, self._membership = isolation, membership
        self._reserve, self._start, self._clock = reserve, start, clock
        self._report_poison, self._remember = report_poison, remember
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
        now, member = self._clock(), trial.member
        error = Unreachable() if task.cancelled() else task.exception()
        if isinstance(error, Died):
            self._membership.mark_dead(member)
        # Nobody may wait for it any more, but what it shows is of use when it is sent again.
        wanted = any(len(item.open_rows) for item in trial.parcel.items)
        if error is not None:
            member.cool_down(now + RESERVE_COOLDOWN_S)
        if error is None and trial.fits and wanted:
            trial.attempt = self._start(trial.parcel, member, now, trial=True)
            trial.began = trial.attempt.began
        else:
            member.reserved = False
            self._isolation.postpone()
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
        """The trial takes far longer than others did; whether that ends it. Several records count
        as lost at once and are divided further; a single one only if its replica is lost."""
        if attempt.num_rows > 1:
            self._isolation.lost(now)
            return not attempt.stalled
        if now - attempt.began > LONGEST_TRIAL_S:
            self._isolation.end_inconclusive()
            attempt.cancel()
            return True
        return False

    def conclude(self, now: float) -> None:
        """Acts on what the trial has shown, once that is known."""
        concluded = self._isolation.conclude(now)
        if concluded is None:
            return
        trial, found = concluded
        parcel, trial.member.reserved = trial.parcel, False
        if found is TrialResult.INCONCLUSIVE:
            if not parcel.superseded and not self._isolation.try_again(parcel):
                self._give_up(parcel)
        elif found is TrialResult.LOST:
            parcel.superseded = True
            if self._isolation.is_poison(parcel):
                self._report_poison(parcel)
            elif parcel.answered:
                self._remember(parcel)
            else:
                self._isolation.add_parts(parcel)
