"""Which replica gets what next, and how lost work is cut: pure decisions with literals."""

from __future__ import annotations

import numpy as np
import pytest
from polar_ray.pool.policy import (
    EXPRESS_BYTES,
    Item,
    Member,
    Parcel,
    RetryBudget,
    choose,
    split,
)

from polar_ray.planning.suspect import SPLIT

FAT = EXPRESS_BYTES + 1


def parcel(cost: int = FAT, rows: int = 1, **options: object) -> Parcel:
    item = Item(None, np.arange(rows), cost, (0, 1.0, 1))
    return Parcel([item], item.order, **options)  # type: ignore[arg-type]


def members(*held: int) -> list[Member]:
    """m0, m1, ... which hold so many fat parcels."""
    return [Member(f"m{i}", "d", [parcel() for _ in range(n)]) for i, n in enumerate(held)]


def chosen(among: list[Member], one: Parcel, home: str | None = None) -> str | None:
    member = choose(among, one, 0.0, home)
    return member and member.name


def test_the_emptiest_replica_is_chosen() -> None:
    assert chosen(members(1, 0, 1), parcel()) == "m1"
    assert chosen(members(2, 2), parcel()) is None


def test_small_work_has_a_slot_of_its_own() -> None:
    assert chosen(members(2, 2), parcel(EXPRESS_BYTES)) == "m0"
    assert chosen(members(3, 3), parcel(EXPRESS_BYTES)) is None


def test_lower_priorities_take_no_slot_from_higher_ones() -> None:
    def ranked(rank: int) -> Parcel:
        item = Item(None, np.arange(1), FAT, (rank, 1.0, 1))
        return Parcel([item], item.order)

    full = Member("m0", "d", [ranked(2), ranked(2)])
    half = Member("m1", "d", [ranked(1)])
    assert chosen([full], ranked(2)) is None
    assert chosen([full], ranked(1)) == "m0"
    assert chosen([full, half], ranked(0)) == "m1", "it has less to do"
    assert chosen([full, half], ranked(1)) == "m0", "its work waits for this"


def test_a_group_goes_home_unless_somebody_is_idle() -> None:
    assert chosen(members(1, 1), parcel(), home="m1") == "m1"
    assert chosen(members(0, 1), parcel(), home="m1") == "m0"
    assert chosen(members(0, 0), parcel(), home="m1") == "m1"
    assert chosen(members(1, 2), parcel(), home="m1") == "m0"


def test_another_replica_than_those_that_lost_it() -> None:
    lost = parcel(avoid=frozenset({"m0"}))
    assert chosen(members(0, 1), lost) == "m1"
    assert chosen(members(0), lost) == "m0", "there is no other"
    assert chosen(members(0, 2), lost) is None, "m1 will have a slot soon"


def test_a_parcel_keeps_to_its_model() -> None:
    both = [Member("old", "v1", [parcel()]), Member("new", "v2")]
    assert chosen(both, parcel(digest="v1")) == "old"
    assert chosen(both, parcel(digest="v2")) == "new"
    assert chosen(both, parcel(digest="v3")) is None


def test_a_suspect_is_alone() -> None:
    suspect = parcel(losses=2)
    assert chosen(members(1, 0), suspect) == "m1"
    busy = members(2, 1)
    assert chosen(busy, suspect) is None
    assert [m.reserved for m in busy] == [False, True], "the emptier one is kept for it"
    assert chosen(busy, parcel(EXPRESS_BYTES)) == "m0"
    busy[1].parcels.clear()
    assert chosen(busy, suspect) == "m1"
    busy[1].parcels.append(suspect)
    assert not busy[1].takes(parcel(1))


def test_the_gray_get_nothing_and_the_tired_only_if_all_are() -> None:
    one, two = members(0, 1)
    one.gray = True
    assert chosen([one, two], parcel()) == "m1"
    assert chosen([one], parcel()) is None
    one.gray, one.resting_until = False, 5.0
    assert chosen([one, two], parcel()) == "m1"
    assert chosen([one], parcel()) == "m0"
    assert choose([one, two], parcel(), 6.0) is one


@pytest.mark.parametrize("rows", [2, 15, 16, 17, 100, 4096])
def test_parts_are_even_and_complete(rows: int) -> None:
    parts = split(parcel(cost=10 * rows, rows=rows, losses=2))
    assert 2 <= len(parts) <= SPLIT
    assert max(part.num_rows for part in parts) == -(-rows // SPLIT)
    found = np.concatenate([item.rows for part in parts for item in part.items])
    assert found.tolist() == list(range(rows))
    assert all(part.losses == 2 for part in parts)


def test_many_small_items_are_divided_without_cutting_them() -> None:
    items = [Item(None, np.array([0]), 1, (0, 1.0, n)) for n in range(40)]
    parts = split(Parcel(items, (0, 1.0, 0), losses=2))
    assert [len(part.items) for part in parts] == [3] * 13 + [1]
    assert not any(item.answered for item in items)


def test_4096_records_are_one_after_few_deaths() -> None:
    worst, deaths = parcel(rows=4096, losses=2), 2
    while worst.num_rows > 1:
        worst = split(worst)[0]
        deaths += 1
        worst.losses += 1
    assert worst.guilty
    assert deaths <= 6


def test_repetitions_are_a_share_of_what_succeeds_and_a_trickle() -> None:
    budget = RetryBudget(share=0.25, per_s=1.0, burst=2.0)
    assert [budget.spend(100.0) for _ in range(3)] == [True, True, False]
    for _ in range(4):
        budget.earn()
    assert [budget.spend(100.0) for _ in range(2)] == [True, False]
    assert [budget.spend(101.0) for _ in range(2)] == [True, False]
    assert not budget.spend(50.0), "a clock that goes back pays nothing"
