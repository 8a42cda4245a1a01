"""Isolation: finds the record that ends replicas, and never blames one for what others died of.

A loss speaks against the work that the replica held, but less, the more replicas were lost lately
that did not hold it (`losses`). Work with enough against it is a suspect. It is bisected, and its
parts are tried one at a time: a trial has a replica for itself, which is emptied before it gets
the suspect, and witnesses, the other replicas, which must all be alive after it. A record is poison
if its replica is lost in such trials again and again.
Knows neither Ray nor asyncio; `recovery` and `trials` act on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from polar_ray.pool.router.bisect import bisect
from polar_ray.pool.router.call import Call
from polar_ray.pool.router.losses import Losses
from polar_ray.pool.router.placement import ready
from polar_ray.pool.router.work import Attempt, Member, Parcel

SUSPECT = 2.0
"""Losses, in a calm pool, after which work is tried alone, in parts."""

MOST_LOSSES = 3
"""Losses after which work is tried alone in any case, undivided. To each of several records that
end replicas the losses by the others look like a storm; and one trial clears what a storm hit."""

CALM_S = 5.0
"""After an inconclusive trial, the next begins once no other replica was lost for so long."""

GRACE_S = 1.0
"""News of other losses may come so much later than that of a trial's."""

CONTROL_S = 30.0
"""A trial waits so long for a witness, if the pool had two replicas before."""

PAUSE_S = 1.0
"""A pool's only replica serves everybody for so long between two trials."""

POISON_TRIALS = 2
"""Trials of a single record that its replica does not survive before it is poison. Losses of its
earlier, larger parcels count for none: they speak as much against its neighbours."""

MAX_INCONCLUSIVE = 8
"""Inconclusive trials of a parcel, after which its callers hear that replicas are lost."""

LONGEST_TRIAL_S = 900.0
"""A single record's trial that neither succeeds nor ends its replica by then is inconclusive.
Longer than a watchdog lets a replica be stuck (`pool.replica.watchdog`)."""

RESERVE_S = 30.0
"""A replica that has not become empty by then is not used for the trial."""

WITNESS_S = 10.0
"""A witness that says nothing for so long after a loss counts as lost, too."""


class TrialResult(Enum):
    """What a trial has shown."""

    HARMLESS = "the replica answered"
    INCONCLUSIVE = "other replicas were lost at the same time, or nobody knows"
    LOST = "the replica was lost, and no other"


@dataclass(slots=True, eq=False)
class Trial:
    """One suspect's trial, from the choice of its replica to its result."""

    parcel: Parcel
    member: Member
    witnesses: list[Member]
    began: float
    attempt: Attempt | None = None
    """None until the replica is empty."""

    lost_at: float | None = None
    inconclusive: bool = False

    @property
    def fits(self) -> bool:
        """The replica serves the suspect's model."""
        return self.parcel.digest in (None, self.member.digest)

    def all_witnesses_live(self) -> bool:
        """Whether each has been heard of since the loss."""
        assert self.lost_at is not None
        return all(witness.heard_at > self.lost_at for witness in self.witnesses)


class Isolation:
    """The suspects, and the one trial that goes on."""

    def __init__(self) -> None:
        self.losses = Losses()
        self.trial: Trial | None = None
        self._suspects: deque[Parcel] = deque()
        self._paired_at = -CONTROL_S
        self._ended_at = -PAUSE_S

    def __len__(self) -> int:
        """Parcels that wait for their trial or are in it."""
        return len(self._suspects) + (self.trial is not None)

    def blame(self, parcel: Parcel, name: str, now: float) -> bool:
        """A replica was lost that held this parcel; whether that makes it a suspect."""
        if name not in parcel.lost_on:
            parcel.lost_on |= {name}
            parcel.losses += 1
            parcel.suspicion += self.losses.weight(parcel, now)
        return parcel.suspicion >= SUSPECT or parcel.losses >= MOST_LOSSES

    def add(self, parcel: Parcel) -> None:
        """A suspect, to be tried after those that wait already."""
        if parcel.suspicion >= SUSPECT:
            self._suspects.extend(bisect(parcel))
        else:
            self._suspects.append(parcel.part(parcel.items))

    def add_parts(self, parcel: Parcel) -> None:
        """A parcel whose trial was lost, to be tried in parts before all others, so that one search
        ends before another begins."""
        self._suspects.extendleft(reversed(bisect(parcel)))

    def drop_answered(self) -> None:
        """Forgets suspects that nobody waits for."""
        self._suspects = deque(p for p in self._suspects if p.prune())

    def of(self, call: Call) -> list[Parcel]:
        """The suspects that wait and have rows of this call."""
        return [p for p in self._suspects if any(item.call is call for item in p.items)]

    def take_all(self) -> list[Parcel]:
        """Removes all suspects that wait."""
        taken = list(self._suspects)
        self._suspects.clear()
        return taken

    def observe(self, members: Iterable[Member], now: float) -> None:
        """Notes whether the pool has two replicas; to be called about once a second."""
        if len(ready(members, now)) > 1:
            self._paired_at = now

    def first(self) -> Parcel | None:
        """The suspect whose turn it is; None while another is tried."""
        while self._suspects and not self._suspects[0].prune():
            self._suspects.popleft()
        return self._suspects[0] if self._suspects and self.trial is None else None

    def next_trial(self, parcel: Parcel, members: Iterable[Member], now: float) -> Trial | None:
        """Begins the trial of the first suspect; None while it has to wait."""
        if parcel.inconclusive_trials and self.losses.others(parcel, now - CALM_S):
            return None
        able = ready(members, now)
        choice = [m for m in able if parcel.digest in (None, m.digest)]
        if not choice:
            return None
        member = min(choice, key=lambda m: (len(m.attempts), m.serving_since, m.name))
        witnesses = [m for m in able if m is not member]
        if not (witnesses or self._may_be_alone(member, now)):
            return None
        if not witnesses and now - self._ended_at < PAUSE_S:
            return None
        self._suspects.remove(parcel)
        self.trial = Trial(parcel, member, witnesses, now)
        return self.trial

    def _may_be_alone(self, member: Member, now: float) -> bool:
        """A pool's only replica has to live for a while without the suspect."""
        return now - self._paired_at >= CONTROL_S and now - member.serving_since >= CALM_S

    def on_trial(self, attempt: Attempt) -> bool:
        """Whether this is the trial that goes on."""
        return self.trial is not None and self.trial.attempt is attempt

    def postpone(self) -> None:
        """The trial's replica did not become empty: nothing was tried."""
        assert self.trial is not None
        self._suspects.appendleft(self.trial.parcel)
        self.trial = None

    def lost(self, now: float) -> None:
        """The trial's replica died or stalled; whether others did, too, is known later."""
        assert self.trial is not None
        if self.trial.lost_at is None:
            self.trial.lost_at = now

    def end_inconclusive(self) -> None:
        """The trial ended in a way that says nothing about the suspect."""
        assert self.trial is not None
        self.trial.inconclusive = True

    def conclude(self, now: float) -> tuple[Trial, TrialResult] | None:
        """Ends the trial and gives its result, once that is known."""
        trial = self.trial
        if trial is None or (found := self._result(trial, now)) is None:
            return None
        self.trial, self._ended_at = None, now
        if found is TrialResult.LOST and trial.parcel.num_rows == 1:
            trial.parcel.trials_lost += 1
        return trial, found

    def _result(self, trial: Trial, now: float) -> TrialResult | None:
        if trial.inconclusive:
            return TrialResult.INCONCLUSIVE
        if trial.lost_at is None:
            ended = trial.attempt is not None and trial.attempt.settled
            return TrialResult.HARMLESS if ended else None
        if now < trial.lost_at + GRACE_S:
            return None
        if self.losses.others(trial.parcel, trial.began - GRACE_S):
            return TrialResult.INCONCLUSIVE
        if trial.all_witnesses_live():
            return TrialResult.LOST
        return TrialResult.INCONCLUSIVE if now > trial.lost_at + WITNESS_S else None

    def is_poison(self, parcel: Parcel) -> bool:
        """Whether a parcel whose trial was lost is the record that ends replicas."""
        return parcel.trials_lost >= POISON_TRIALS

    def try_again(self, parcel: Parcel) -> bool:
        """Puts a suspect back after an inconclusive trial; False if there were too many."""
        parcel.inconclusive_trials += 1
        if parcel.inconclusive_trials > MAX_INCONCLUSIVE:
            return False
        self._suspects.appendleft(parcel)
        return True
