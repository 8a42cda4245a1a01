"""Isolation: finds the record that ends replicas, and never blames one for what others died of.

A loss is a replica that died, stopped or stalled with work in hand. It speaks against that work,
but less, the more replicas were lost lately that did not hold it. Work with enough against it is a
suspect: it is cut into parts, which are tried one at a time. A trial has a replica for itself,
which says so before it gets the suspect, and witnesses: the other replicas, which must all be alive
after it. Only what is lost in such trials again and again, down to a single record, is poison.
Knows neither Ray nor asyncio; `pool.router.recovery` and `pool.router.trials` act on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from polar_ray.pool.router.placement import Member, rested
from polar_ray.pool.router.work import Attempt, Call, Item, Parcel

WINDOW_S = 15.0
"""Losses of other replicas within so long weigh against the suspicion of one's own."""

SUSPECT = 2.0
"""Losses, in a calm pool, after which work is tried alone, in parts."""

MOST_LOSSES = 3
"""Losses after which it is tried alone in any case, whole: several records that end replicas look
like a storm to each other, and work that a storm hit again and again is cleared by one trial."""

CALM_S = 5.0
"""After a trial that showed nothing, the next begins once no other replica was lost for so long."""

GRACE_S = 1.0
"""News of other losses may come so much later than that of a trial's."""

CONTROL_S = 30.0
"""A trial waits so long for another replica that could live beside it, if there was one before."""

PARTS = 64
"""Parts into which a suspect is cut: one record of 4096 is alone after two cuts."""

PAUSE_S = 1.0
"""A pool's only replica serves everybody for so long between two trials."""

POISON_TRIALS = 2
"""Replicas that a single record takes with it in trials of its own before it is poison. What was
lost with its neighbours speaks as much against them."""

MAX_VOID_TRIALS = 8
"""Trials of one parcel that showed nothing, after which its callers hear that replicas are lost."""

LONGEST_TRIAL_S = 900.0
"""A single record's trial that neither comes home nor ends its replica shows nothing. Longer than
a watchdog lets a replica be stuck (`pool.replica.watchdog`)."""

RESERVE_S = 30.0
"""A replica that has not finished what it is at for so long is not waited for."""

WITNESS_S = 10.0
"""Witnesses that say nothing for so long after a loss are lost, too."""


@dataclass(slots=True)
class _Loss:
    at: float
    families: frozenset[object]
    """What the replica held; see `Parcel.family`."""

    explained: bool = False
    """A suspect's trial was its cause: it says nothing about other work."""


class Losses:
    """The replicas that were lost lately, and what they held."""

    def __init__(self) -> None:
        self._losses: deque[_Loss] = deque()

    def note(
        self,
        held: Collection[Attempt],
        stalled_on: Collection[object],
        now: float,
        *,
        explained: bool = False,
    ) -> None:
        """A replica was lost that held these attempts and had stalled on work of these families."""
        families = frozenset({attempt.parcel.family for attempt in held}.union(stalled_on))
        self._losses.append(_Loss(now, families, explained))
        while self._losses and self._losses[0].at < now - 2 * WINDOW_S - LONGEST_TRIAL_S:
            self._losses.popleft()

    def others(self, parcel: Parcel, since: float) -> int:
        """Replicas lost since then without holding this parcel, for no reason that is known."""
        return sum(
            loss.at >= since and not loss.explained and parcel.family not in loss.families
            for loss in self._losses
        )

    def weight(self, parcel: Parcel, now: float) -> float:
        """How much a loss at this moment speaks against a parcel, between 0 and 1."""
        return 1.0 / (1 + self.others(parcel, now - WINDOW_S))


class Verdict(Enum):
    """What a trial has shown."""

    HARMLESS = "it came home"
    VOID = "other replicas were lost at the same time, or nobody knows"
    LOST = "it took its replica with it, and no other was lost"


@dataclass(slots=True, eq=False)
class Trial:
    """One suspect's, from the choice of its replica to what it has shown."""

    parcel: Parcel
    member: Member
    witnesses: list[Member]
    began: float
    attempt: Attempt | None = None
    """None until the replica is empty."""

    lost_at: float | None = None
    shows_nothing: bool = False

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
            self._suspects.extend(cut(parcel))
        else:
            self._suspects.append(parcel.part(parcel.items))

    def add_parts(self, parcel: Parcel) -> None:
        """A parcel whose trial was lost, to be tried in parts before all others: one search ends
        before another begins."""
        self._suspects.extendleft(reversed(cut(parcel)))

    def drop_answered(self) -> None:
        """Forgets suspects that nobody waits for."""
        self._suspects = deque(p for p in self._suspects if p.forget_answered())

    def of(self, call: Call) -> list[Parcel]:
        """The suspects that wait and have rows of this call."""
        return [p for p in self._suspects if any(item.call is call for item in p.items)]

    def take_all(self) -> list[Parcel]:
        """Removes all suspects that wait."""
        taken = list(self._suspects)
        self._suspects.clear()
        return taken

    def observe(self, members: Iterable[Member], now: float) -> None:
        """Who there is, about once a second."""
        if len(rested(members, now)) > 1:
            self._paired_at = now

    def first(self) -> Parcel | None:
        """The suspect whose turn it is; None while another is tried."""
        while self._suspects and not self._suspects[0].forget_answered():
            self._suspects.popleft()
        return self._suspects[0] if self._suspects and self.trial is None else None

    def next_trial(self, parcel: Parcel, members: Iterable[Member], now: float) -> Trial | None:
        """Begins the trial of the first suspect; None while it has to wait."""
        if parcel.void_trials and self.losses.others(parcel, now - CALM_S):
            return None
        able = rested(members, now)
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
        """The trial's replica died or stalled; others may turn out to have, too."""
        assert self.trial is not None
        if self.trial.lost_at is None:
            self.trial.lost_at = now

    def show_nothing(self) -> None:
        """Something else became of the trial."""
        assert self.trial is not None
        self.trial.shows_nothing = True

    def verdict(self, now: float) -> tuple[Trial, Verdict] | None:
        """Ends the trial, once it is known what it has shown."""
        trial = self.trial
        if trial is None or (found := self._judge(trial, now)) is None:
            return None
        self.trial, self._ended_at = None, now
        if found is Verdict.LOST and trial.parcel.num_rows == 1:
            trial.parcel.trials_lost += 1
        return trial, found

    def _judge(self, trial: Trial, now: float) -> Verdict | None:
        if trial.shows_nothing:
            return Verdict.VOID
        if trial.lost_at is None:
            ended = trial.attempt is not None and trial.attempt.settled
            return Verdict.HARMLESS if ended else None
        if now < trial.lost_at + GRACE_S:
            return None
        if self.losses.others(trial.parcel, trial.began - GRACE_S):
            return Verdict.VOID
        if trial.all_witnesses_live():
            return Verdict.LOST
        return Verdict.VOID if now > trial.lost_at + WITNESS_S else None

    def is_poison(self, parcel: Parcel) -> bool:
        """Whether a parcel whose trial was lost is the record that ends replicas."""
        return parcel.trials_lost >= POISON_TRIALS

    def try_again(self, parcel: Parcel) -> bool:
        """After a trial that showed nothing; False if there were too many."""
        parcel.void_trials += 1
        if parcel.void_trials > MAX_VOID_TRIALS:
            return False
        self._suspects.appendleft(parcel)
        return True


def cut(parcel: Parcel) -> list[Parcel]:
    """A parcel as some smaller ones of about as many rows each, with the same past."""
    parcel.forget_answered()
    largest = -(-parcel.num_rows // PARTS)
    pieces = [piece for item in parcel.items for piece in _cut_item(item, largest)]
    parts: list[list[Item]] = [[]]
    size = 0
    for piece in pieces:
        if parts[-1] and size + len(piece.rows) > largest:
            parts.append([])
            size = 0
        parts[-1].append(piece)
        size += len(piece.rows)
    return [parcel.part(items) for items in parts]


def _cut_item(item: Item, largest: int) -> list[Item]:
    open_rows = item.rows[item.call.open[item.rows]]
    starts = range(0, len(open_rows), largest)
    cost = -(-item.cost // len(starts))
    return [replace(item, rows=open_rows[at : at + largest], cost=cost) for at in starts]
