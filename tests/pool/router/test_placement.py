"""Which replica gets what next: pure decisions with literals."""

from __future__ import annotations

from parcels import give, members, parcel

from polar_ray.pool.router.affinity import Affinity
from polar_ray.pool.router.placement import choose
from polar_ray.pool.router.work import Member, Parcel
from polar_ray.sizes import SMALL_BYTES


def chosen(among: list[Member], wanted: Parcel, preferred: str | None = None) -> str | None:
    """The name of the replica; `preferred` is the name of the first that had the group before."""
    before = next((member for member in among if member.name == preferred), None)
    member = choose(among, wanted, 0.0, before)
    return member and member.name


def test_the_emptiest_replica_is_chosen() -> None:
    assert chosen(members(1, 0, 1), parcel()) == "m1"
    assert chosen(members(2, 2), parcel()) is None


def test_small_work_has_a_slot_of_its_own() -> None:
    assert chosen(members(2, 2), parcel(SMALL_BYTES)) == "m0"
    assert chosen(members(3, 3), parcel(SMALL_BYTES)) is None


def test_lower_priorities_take_no_slot_from_higher_ones() -> None:
    full, half = members(0, 0)
    for _ in range(2):
        give(full, parcel(rank=2))
    give(half, parcel(rank=1))
    assert chosen([full], parcel(rank=2)) is None
    assert chosen([full], parcel(rank=1)) == "m0"
    assert chosen([full, half], parcel()) == "m1", "it has less to do"
    assert chosen([full, half], parcel(rank=1)) == "m0", "its work waits for this"


def test_a_group_goes_to_its_replica_unless_another_is_idle() -> None:
    assert chosen(members(1, 1), parcel(), preferred="m1") == "m1"
    assert chosen(members(0, 1), parcel(), preferred="m1") == "m0"
    assert chosen(members(0, 0), parcel(), preferred="m1") == "m1"
    assert chosen(members(1, 2), parcel(), preferred="m1") == "m0"


def test_another_replica_than_those_that_lost_it() -> None:
    lost = parcel(lost_on=frozenset({"m0"}))
    assert chosen(members(0, 1), lost) == "m1"
    assert chosen(members(0), lost) == "m0", "there is no other"
    assert chosen(members(0, 2), lost) is None, "m1 will have a slot soon"


def test_never_to_a_replica_that_has_it_already() -> None:
    first, second = members(0, 2)
    twice = parcel()
    give(first, twice)
    twice.attempts += first.attempts
    assert chosen([first, second], twice) is None


def test_a_parcel_keeps_to_its_model() -> None:
    old, new = members(1, 0)
    old.digest, new.digest = "v1", "v2"
    assert chosen([old, new], parcel(digest="v1")) == "m0"
    assert chosen([old, new], parcel(digest="v2")) == "m1"
    assert chosen([old, new], parcel(digest="v3")) is None


def test_a_reserved_replica_gets_nothing() -> None:
    first, second = members(0, 1)
    first.reserved = True
    assert chosen([first, second], parcel(SMALL_BYTES)) == "m1"


def test_the_unresponsive_get_nothing_and_those_in_a_cooldown_only_if_all_are() -> None:
    first, second = members(0, 1)
    first.unresponsive = True
    assert chosen([first, second], parcel()) == "m1"
    assert chosen([first], parcel()) is None
    first.unresponsive, first.cooldown_until = False, 5.0
    assert chosen([first, second], parcel()) == "m1"
    assert chosen([first], parcel()) == "m0"
    assert choose([first, second], parcel(), 6.0) is first
    first.serving = False
    assert choose([first, second], parcel(), 6.0) is second


def test_a_group_is_remembered_until_there_are_too_many() -> None:
    affinity = Affinity()
    affinity.remember(1, "a")
    affinity.remember(None, "b")
    assert (affinity.find(1), affinity.find(2), affinity.find(None)) == ("a", "", "")
    for group in range(2, 100_002):
        affinity.remember(group, "c")
    assert affinity.find(1) == ""
