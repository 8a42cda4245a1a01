"""Which record ends replicas, and that none is blamed for other losses: literals."""

from __future__ import annotations

import numpy as np
import pytest
from parcels import give, members, parcel

from polar_ray.pool.router.bisect import PARTS, bisect
from polar_ray.pool.router.isolation import (
    CALM_S,
    CONTROL_S,
    GRACE_S,
    MAX_INCONCLUSIVE,
    WITNESS_S,
    Isolation,
    TrialResult,
)
from polar_ray.pool.router.losses import WINDOW_S, Losses
from polar_ray.pool.router.work import Member, Parcel


def lose(isolation: Isolation, member: Member, now: float) -> None:
    """A replica dies with all that it holds."""
    isolation.losses.note(member.attempts, (), now)
    member.attempts.clear()


def tried(isolation: Isolation, among: list[Member], suspect: Parcel, now: float) -> Member:
    """Begins the suspect's trial; who it is at."""
    trial = isolation.next_trial(suspect, among, now)
    assert trial is not None
    give(trial.member, suspect)
    trial.attempt = trial.member.attempts[-1]
    return trial.member


def test_two_losses_in_a_calm_pool_make_a_suspect() -> None:
    isolation, held = Isolation(), parcel(rows=100)
    for now, member in enumerate(members(0, 0)):
        give(member, held)
        lose(isolation, member, now)
        assert isolation.blame(held, member.name, now) is (now == 1)


def test_losses_in_a_storm_make_a_suspect_that_is_tried_whole() -> None:
    isolation, held = Isolation(), parcel(rows=100)
    for now in range(3):
        for other in members(1, 1, 1):
            lose(isolation, other, now)
        assert isolation.blame(held, f"m{now}", now) is (now == 2)
    isolation.add(held)
    whole = isolation.first()
    assert whole is not None
    assert whole.num_rows == 100


def test_the_same_loss_speaks_once() -> None:
    isolation, held = Isolation(), parcel(rows=100)
    assert not any(isolation.blame(held, "m0", 0.0) for _ in range(5))


def test_losses_of_others_weigh_against_the_suspicion_until_they_are_old() -> None:
    losses, held = Losses(), parcel()
    for member in members(1, 1, 1):
        losses.note(member.attempts, (), 10.0)
    assert losses.weight(held, 10.0) == 0.25
    assert losses.weight(held, 10.0 + WINDOW_S + 1) == 1.0
    losses.note([], [held.family], 11.0)
    assert losses.weight(held, 11.0) == 0.25, "a loss of a replica that held it is no other's"


@pytest.mark.parametrize("rows", [2, 15, 64, 65, 100, 4096])
def test_parts_are_even_and_complete(rows: int) -> None:
    whole = parcel(cost=10 * rows, rows=rows, suspicion=2.0)
    parts = bisect(whole)
    assert 2 <= len(parts) <= PARTS
    assert max(part.num_rows for part in parts) == -(-rows // PARTS)
    found = np.concatenate([item.rows for part in parts for item in part.items])
    assert found.tolist() == list(range(rows))
    assert all(part.family is whole.family and part.suspicion == 2.0 for part in parts)


def test_what_is_answered_by_then_is_not_tried() -> None:
    whole = parcel(rows=100)
    whole.items[0].call.open[:90] = False
    found = np.concatenate([item.rows for part in bisect(whole) for item in part.items])
    assert found.tolist() == list(range(90, 100))


def test_one_of_4096_is_alone_after_two_bisections() -> None:
    [part, *_] = bisect(parcel(rows=4096))
    assert bisect(part)[0].num_rows == 1


def test_a_trial_waits_for_calm_and_for_a_witness() -> None:
    isolation, suspect = Isolation(), parcel()
    isolation.add(suspect)
    [first] = [isolation.first()]
    assert first is not None
    pair = members(0, 1)
    isolation.losses.note([], (), 100.0)
    first.inconclusive_trials = 1
    assert isolation.next_trial(first, pair, 100.0 + CALM_S / 2) is None, (
        "a storm made one inconclusive"
    )
    isolation.observe(pair, 101.0)
    alone = 101.0 + CONTROL_S
    assert isolation.next_trial(first, pair[:1], alone - 1) is None, "another was there lately"
    pair[0].serving_since = alone - 1
    assert isolation.next_trial(first, pair[:1], alone) is None, "it has not lived alone for long"
    trial = isolation.next_trial(first, pair, alone)
    assert trial is not None
    assert (trial.member, trial.witnesses) == (pair[0], [pair[1]])


def test_a_record_that_ends_replicas_while_others_live_is_poison() -> None:
    isolation, among = Isolation(), members(0, 0)
    isolation.add(parcel())
    for now in (100.0, 200.0):
        suspect = isolation.first()
        assert suspect is not None
        member = tried(isolation, among, suspect, now)
        lose(isolation, member, now + 1)
        isolation.lost(now + 1)
        for witness in among:
            witness.heard_at = now + 1.5
        assert isolation.conclude(now + 1.5) is None, "news of others may still come"
        _, found = isolation.conclude(now + 1 + GRACE_S) or (None, None)
        assert found is TrialResult.LOST
        assert isolation.is_poison(suspect) is (now == 200.0)
        isolation.add_parts(suspect)


@pytest.mark.parametrize("storm", [True, False])
def test_a_trial_in_a_storm_is_inconclusive(storm: bool) -> None:
    """Another replica was lost, too, or cannot be heard of."""
    isolation, among = Isolation(), members(0, 0)
    isolation.add(parcel())
    suspect = isolation.first()
    assert suspect is not None
    member = tried(isolation, among, suspect, 100.0)
    isolation.losses.note(member.attempts, (), 101.0, explained=True)
    isolation.lost(101.0)
    if storm:
        isolation.losses.note([], (), 101.5)
    assert isolation.conclude(101.0 + GRACE_S) is None or storm
    found = isolation.conclude(101.0 + WITNESS_S + 1)
    assert storm or found is not None
    if found is not None:
        assert found[1] is TrialResult.INCONCLUSIVE
    assert suspect.trials_lost == 0


def test_a_suspect_that_is_scored_is_harmless() -> None:
    isolation, among = Isolation(), members(0, 0)
    isolation.add(parcel())
    suspect = isolation.first()
    assert suspect is not None
    member = tried(isolation, among, suspect, 100.0)
    suspect.items[0].call.end()
    assert isolation.conclude(100.0) is None, "its caller has left, and it goes on"
    member.attempts[0].settled = True
    _, found = isolation.conclude(100.0) or (None, None)
    assert found is TrialResult.HARMLESS
    assert len(isolation) == 0


def test_inconclusive_trials_end() -> None:
    isolation, suspect = Isolation(), parcel()
    assert [isolation.try_again(suspect) for _ in range(MAX_INCONCLUSIVE)] == [True] * 8
    assert not isolation.try_again(suspect)
