"""Isolation: finds the record that ends replicas, and never blames one for what others died of.

A loss is a replica that died, stopped or stalled with work in hand. It speaks against that work,
but less, the more replicas were lost lately that did not hold it. Work with enough against it is a
suspect: it is cut into parts, which are tried one at a time, each alone at a replica, in a calm
moment, while another replica lives beside it. Only what is lost in such trials again and again, down
to a single record, is poison. Knows neither Ray nor asyncio; `pool.dispatcher` acts on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from polar_ray.planning.suspect import largest_part
from polar_ray.pool.placement import Member, rested
from polar_ray.pool.work import Attempt, Item, Parcel

WINDOW_S = 15.0
"""Losses of other replicas within so long weigh against the suspicion of one's own."""

SUSPECT = 2.0
"""Losses, in a calm pool, after which work is tried alone."""

CALM_S = 5.0
"""A trial begins once no other replica was lost for so long."""

GRACE_S = 1.0
"""News of other losses may come so much later than that of a trial's."""

CONTROL_S = 30.0
"""A trial waits so long for another replica that could live beside it, if there was one before."""

POISON_TRIALS = 2
"""Lost trials, the last of them of a single record and by a death, that convict it."""

MAX_VOID_TRIALS = 8
"""Trials of one parcel that showed nothing, after which its callers hear that replicas are lost."""

LONGEST_TRIAL_S = 120.0
"""A single record's trial that neither comes home nor ends its replica shows nothing."""


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

    def note(self, held: Collection[Attempt], stalled_on: Collection[object], now: float) -> None:
        """A replica was lost that held these attempts and had stalled on work of these families."""
        families = frozenset({attempt.parcel.family for attempt in held}.union(stalled_on))
        self._losses.append(_Loss(now, families, any(attempt.trial for attempt in held)))
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

    HARMLESS = "it came home, or nobody waits for it any more"
    VOID = "other replicas were lost at the same time, or nobody knows"
    LOST = "it took its replica with it, and no other was lost"


@dataclass(slots=True)
class _Trial:
    attempt: Attempt
    lost_at: float | None = None
    died: bool = False
    void: bool = False


class Isolation:
    """The suspects, and the one trial that goes on."""

    def __init__(self) -> None:
        self.losses = Losses()
        self._suspects: deque[Parcel] = deque()
        self._trial: _Trial | None = None
        self._paired_at = -CONTROL_S

    def __len__(self) -> int:
        """Parcels that wait for their trial."""
        return len(self._suspects)

    def blame(self, parcel: Parcel, name: str, now: float) -> bool:
        """A replica was lost that held this parcel; whether that makes it a suspect."""
        if name not in parcel.lost_on:
            parcel.lost_on |= {name}
            parcel.suspicion += self.losses.weight(parcel, now)
        return parcel.suspicion >= SUSPECT

    def add(self, parcel: Parcel) -> None:
        """A suspect, to be tried in parts after those that wait already."""
        self._suspects.extend(cut(parcel))

    def add_parts(self, parcel: Parcel) -> None:
        """A parcel whose trial was lost, to be tried in parts before all others: one search ends
        before another begins."""
        self._suspects.extendleft(reversed(cut(parcel)))

    def drop_answered(self) -> None:
        """Forgets suspects that nobody waits for."""
        self._suspects = deque(p for p in self._suspects if p.forget_answered())

    def observe(self, members: Iterable[Member], now: float) -> None:
        """Who there is, about once a second."""
        if len(rested(members, now)) > 1:
            self._paired_at = now

    def next(self, now: float) -> Parcel | None:
        """The suspect whose trial may begin now; None while it has to wait."""
        if self._trial is not None:
            return None
        while self._suspects and not self._suspects[0].forget_answered():
            self._suspects.popleft()
        if not self._suspects or self.losses.others(self._suspects[0], now - CALM_S):
            return None
        return self._suspects[0]

    def place(self, parcel: Parcel, members: Iterable[Member], now: float) -> Member | None:
        """The replica to try a suspect at, which may still hold other work; None while there is
        none that would show anything."""
        able = rested(members, now)
        able_to_score = [m for m in able if parcel.digest in (None, m.digest)]
        if not able_to_score:
            return None
        member = min(able_to_score, key=lambda m: (len(m.attempts), m.serving_since, m.name))
        if len(able) > 1:
            return member
        # Alone, it has to live for a while without the suspect before it is tried with it.
        waited = now - self._paired_at >= CONTROL_S and now - member.serving_since >= CALM_S
        return member if waited else None

    def begin(self, attempt: Attempt) -> None:
        """The first suspect's trial begins."""
        self._suspects.remove(attempt.parcel)
        self._trial = _Trial(attempt)

    def on_trial(self, attempt: Attempt) -> bool:
        """Whether this is the trial that goes on."""
        return self._trial is not None and self._trial.attempt is attempt

    def lost(self, now: float, *, died: bool) -> None:
        """The trial's replica died or stalled; others may turn out to have, too."""
        assert self._trial is not None
        self._trial.lost_at, self._trial.died = now, died

    def show_nothing(self) -> None:
        """Something else became of the trial."""
        assert self._trial is not None
        self._trial.void = True

    def verdict(self, now: float) -> tuple[Parcel, Verdict] | None:
        """Ends the trial, once it is known what it has shown."""
        trial = self._trial
        if trial is None:
            return None
        parcel = trial.attempt.parcel
        if parcel.answered:
            found = Verdict.HARMLESS
        elif trial.void:
            found = Verdict.VOID
        elif trial.lost_at is None or now < trial.lost_at + GRACE_S:
            return None
        else:
            found = self._judge(trial)
        self._trial = None
        return parcel, found

    def _judge(self, trial: _Trial) -> Verdict:
        parcel = trial.attempt.parcel
        if self.losses.others(parcel, trial.attempt.began - GRACE_S):
            return Verdict.VOID
        parcel.trials_lost += 1
        return Verdict.LOST

    def is_poison(self, parcel: Parcel) -> bool:
        """Whether a parcel whose trial was lost is the record that ends replicas."""
        return parcel.num_rows == 1 and parcel.trials_lost >= POISON_TRIALS

    def try_again(self, parcel: Parcel) -> bool:
        """After a trial that showed nothing; False if there were too many of them."""
        parcel.void_trials += 1
        if parcel.void_trials > MAX_VOID_TRIALS:
            return False
        self._suspects.appendleft(parcel)
        return True


def cut(parcel: Parcel) -> list[Parcel]:
    """A parcel as some smaller ones of about as many rows each, with the same past."""
    parcel.forget_answered()
    largest = largest_part(parcel.num_rows)
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
    return [
        Item(item.call, open_rows[at : at + largest], cost, item.order, item.group, item.round)
        for at in starts
    ]
