"""Which task does what, and when a second one gets the rest of a run; in virtual time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.data.splits import Split
from polar_ray.offline.backups import (
    FIRST_LATE_S,
    LEAST_LATE_S,
    MOST_CALLS,
    MOST_READINGS,
    Backups,
    Copy,
    runs,
)
from polar_ray.offline.grouping import cut_buckets
from polar_ray.offline.work import Call


def calls(count: int, path: str = "in.parquet") -> list[Call]:
    return [Call("score", (Split(n, path, "parquet", n, n + 1, 1, (1, "")),)) for n in range(count)]


def numbers(run: list[Call]) -> list[int]:
    return [call.splits[0].number for call in run]


@given(st.lists(st.integers(0, 40), max_size=4), st.integers(1, 20))
def test_runs_hold_every_call_once_in_order(files: list[int], room: int) -> None:
    given_ = [call for n, count in enumerate(files) for call in calls(count, f"{n}.parquet")]
    found = runs(given_, room)
    assert [call for run in found for call in run] == given_
    for run in found:
        assert 1 <= len(run) <= MOST_CALLS
        assert len({call.splits[0].path for call in run}) == 1


def test_runs_leave_enough_for_all_tasks() -> None:
    assert max(map(len, runs(calls(1000), 4))) == MOST_CALLS
    assert len(runs(calls(16), 6)) == 16


def test_a_compressed_file_is_not_unpacked_for_every_split() -> None:
    for name in ("in.jsonl.gz", "in.csv", "in.json"):
        assert len(runs(calls(1000, name), 100)) == MOST_READINGS
    assert len(runs(calls(1000, "in.jsonl"), 100)) > MOST_READINGS


def test_a_bucket_is_one_run() -> None:
    splits = cut_buckets([30, 0, 95], 10, 1000)
    assert [len(run) for run in runs([Call("score", (s,)) for s in splits], 8)] == [3, 10]


def start(backups: Backups, now: float, room: int) -> list[Copy]:
    found = []
    while (copy := backups.next(now, room)) is not None:
        found.append(copy)
    return found


def test_no_more_runs_are_out_than_there_is_room() -> None:
    backups = Backups([calls(2)] * 5)
    copies = start(backups, 0, 3)
    assert len(copies) == 3
    assert start(backups, 1, 3) == []
    assert backups.result(copies[0], 1) is not None
    assert start(backups, 1, 3) == []
    assert backups.result(copies[0], 2) is not None
    assert len(start(backups, 2, 3)) == 1


def test_a_task_that_is_stopped_costs_a_few_times_what_the_others_took() -> None:
    backups = Backups([calls(3), calls(9)])
    stopped, other = start(backups, 0, 2)
    backups.result(stopped, 1)
    for second in range(1, 9):
        assert backups.result(other, 6 * second) is not None
        if backup := start(backups, 6 * second, 2):
            break
    assert second > 2
    [second_copy] = backup
    assert (second_copy.run, second_copy.at) == (stopped.run, 1), "the rest of the run"
    # It wakes up: whoever is first counts, each call once.
    seen = [backups.result(second_copy, 20), backups.result(stopped, 20)]
    assert [call is not None for call in seen] == [True, False]
    assert backups.result(stopped, 21) is not None
    assert stopped.run.done == 3
    assert backups.result(second_copy, 22) is None


def test_what_is_slow_alike_has_no_backup() -> None:
    backups = Backups([calls(100)] * 4)
    copies = start(backups, 0, 4)
    for now in range(100, 9000, 100):
        for copy in copies:
            backups.result(copy, now)
        assert start(backups, now + 99, 4) == []


def test_short_work_is_not_late_at_once() -> None:
    backups = Backups([calls(9)] * 2)
    one, _ = start(backups, 0, 2)
    for tick in range(5):
        backups.result(one, tick / 100)
    assert start(backups, LEAST_LATE_S, 2) == []
    assert len(start(backups, LEAST_LATE_S + 0.1, 2)) == 1


def test_a_lone_task_without_a_result_is_not_waited_for_for_ever() -> None:
    backups = Backups([calls(1)])
    [first] = start(backups, 0, 1)
    assert start(backups, FIRST_LATE_S, 1) == []
    [second] = start(backups, FIRST_LATE_S + 1, 1)
    [third] = start(backups, 3 * FIRST_LATE_S + 2, 1)
    assert first.run is second.run is third.run
    backups.result(third, 2000)
    assert backups.finished


def test_a_pool_that_stands_still_does_not_double_all_work() -> None:
    backups = Backups([calls(9)] * 40)
    copies = start(backups, 0, 40)
    for copy in copies:
        backups.result(copy, 1)
    doubled = [start(backups, now, 40) for now in range(2, 600)]
    assert 0 < sum(copy.run.copies > 1 for copy in copies) <= 10
    assert sum(map(len, doubled)) < 60, "those that have one have more, ever more seldom"


@pytest.mark.parametrize("stop", [0, 3, 7])
def test_every_call_has_one_result_whoever_is_stopped(stop: int) -> None:
    backups = Backups([calls(4)] * 8)
    copies: list[Copy] = []
    found: list[Call] = []
    now = 0.0
    while not backups.finished:
        copies += start(backups, now, 4)
        now += 1.0
        for at, copy in enumerate(list(copies)):
            if at == stop or copy.run.done == len(copy.run.calls):
                continue
            if (call := backups.result(copy, now)) is not None:
                found.append(call)
        assert now < 1000
    assert len(found) == 32
    gaps = [b - a for a, b in pairwise(sorted(numbers(found)))]
    assert set(gaps) == {0, 1}
