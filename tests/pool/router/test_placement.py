"""Which replica gets what next: pure decisions with literals."""

from __future__ import annotations

from parcels import give, members, parcel

from polar_ray.pool.router.placement import EXPRESS_BYTES, Affinity, Member, choose
from polar_ray.pool.router.work import Parcel


def chosen(among: list[Member], wanted: Parcel, home: str | None = None) -> str | None:
    member = choose(among, wanted, 0.0, home)
    return member and member.name


def test_the_emptiest_replica_is_chosen() -> None:
    assert chosen(members(1, 0, 1), parcel()) == "m1"
    assert chosen(members(2, 2), parcel()) is None


def test_small_work_has_a_slot_of_its_own() -> None:
    assert chosen(members(2, 2), parcel(EXPRESS_BYTES)) == "m0"
    assert chosen(members(3, 3), parcel(EXPRESS_BYTES)) is None


def test_lower_priorities_take_no_slot_from_higher_ones() -> None:
    full, half = members(0, 0)
    for _ in range(2):
        give(full, parcel(rank=2))
    give(half, parcel(rank=1))
    assert chosen([full], parcel(rank=2)) is None
    assert chosen([full], parcel(rank=1)) == "m0"
    assert chosen([full, half], parcel()) == "m1", "it has less to do"
    assert chosen([full, half], parcel(rank=1)) == "m0", "its work waits for this"


def test_a_group_goes_home_unless_somebody_is_idle() -> None:
    assert chosen(members(1, 1), parcel(), home="m1") == "m1"
    assert chosen(members(0, 1), parcel(), home="m1") == "m0"
    assert chosen(members(0, 0), parcel(), home="m1") == "m1"
    assert chosen(members(1, 2), parcel(), home="m1") == "m0"


def test_another_replica_than_those_that_lost_it() -> None:
    lost = parcel(lost_on=frozenset({"m0"}))
    assert chosen(members(0, 1), lost) == "m1"
    assert chosen(members(0), lost) == "m0", "there is no other"
    assert chosen(members(0, 2), lost) is None, "m1 will have a slot soon"


def test_never_to_a_replica_that_has_it_already() -> None:
    one, two = members(0, 2)
    twice = parcel()
    give(one, twice)
    twice.attempts += one.attempts
    assert chosen([one, two], twice) is None


def test_a_parcel_keeps_to_its_model() -> None:
    old, new = members(1, 0)
    old.digest, new.digest = "v1", "v2"
    assert chosen([old, new], parcel(digest="v1")) == "m0"
    assert chosen([old, new], parcel(digest="v2")) == "m1"
    assert chosen([old, new], parcel(digest="v3")) is None


def test_a_reserved_replica_gets_nothing() -> None:
    one, two = members(0, 1)
    one.reserved = True
    assert chosen([one, two], parcel(EXPRESS_BYTES)) == "m1"


def test_the_unresponsive_get_nothing_and_the_resting_only_if_all_rest() -> None:
    one, two = members(0, 1)
    one.unresponsive = True
    assert chosen([one, two], parcel()) == "m1"
    assert chosen([one], parcel()) is None
    one.unresponsive, one.resting_until = False, 5.0
    assert chosen([one, two], parcel()) == "m1"
    assert chosen([one], parcel()) == "m0"
    assert choose([one, two], parcel(), 6.0) is one
    one.serving = False
    assert choose([one, two], parcel(), 6.0) is two


def test_a_group_is_remembered_until_there_are_too_many() -> None:
    affinity = Affinity()
    affinity.remember(1, "a")
    affinity.remember(None, "b")
    assert (affinity.home(1), affinity.home(2), affinity.home(None)) == ("a", None, None)
    for group in range(2, 100_002):
        affinity.remember(group, "c")
    assert affinity.home(1) is None
