"""Who does what, and what becomes of calls whose worker died: pure decisions with literals."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from polar_ray.errors import JobStopped
from polar_ray.offline.crew import Call
from polar_ray.offline.roster import MOST_LOSSES, MOST_REPEATS, Roster, Task
from polar_ray.offline.work import Problem


def score(*names: str) -> list[Call]:
    return [Call("score", (name,)) for name in names]


def given(roster: Roster) -> list[tuple[str, int]]:
    """Everything that is handed out now: the unit and the worker."""
    found = []
    while (one := roster.next()) is not None:
        found.append((one[0].call.arguments[0], one[1]))
    return found


def hand_out(roster: Roster) -> list[Task]:
    found = []
    while (one := roster.next()) is not None:
        found.append(one[0])
    return found


def test_the_emptiest_worker_gets_the_next_call() -> None:
    roster = Roster(score(*"abcde"), 2, 2)
    assert given(roster) == [("a", 0), ("b", 1), ("c", 0), ("d", 1)]
    assert not roster.finished


def test_results_come_as_they_are_until_nothing_is_left() -> None:
    calls = score("a", "b")
    roster = Roster(calls, 1, 1)
    for call in calls:
        [task] = hand_out(roster)
        assert roster.done(task, f"part of {call.arguments[0]}") == (
            call,
            f"part of {call.arguments[0]}",
        )
    assert roster.finished
    assert Roster([], 1, 1).finished


def test_who_is_away_gets_nothing_and_who_is_back_does() -> None:
    roster = Roster(score(*"abcd"), 2, 1)
    [a, _] = hand_out(roster)
    assert roster.away(0)
    assert not roster.away(0), "it was known"
    roster.lost(a, "died")
    assert given(roster) == []
    roster.back(0)
    assert given(roster) == [("a", 0)]


def test_what_lost_a_worker_is_alone_and_the_others_go_on() -> None:
    roster = Roster(score(*"abcdefgh"), 2, 2)
    [a, b, _c, d] = hand_out(roster)
    roster.lost(a, "died")
    # Worker 0 still has c, worker 1 has b and d: 0 is kept for a, until it is empty.
    assert given(roster) == []
    roster.done(b, "part")
    roster.done(d, "part")
    assert given(roster) == [("a", 1), ("e", 0)], "worker 1 is the empty one now, and a's alone"


def test_no_worker_left_stops_the_job() -> None:
    roster = Roster(score("a"), 2, 1)
    roster.gone(0, "no GPU")
    with pytest.raises(JobStopped, match="no worker is left: no GPU"):
        roster.gone(1, "no GPU")


def run(
    num_rows: int, fatal: set[int], num_workers: int = 2, dies: Callable[[Task], bool] | None = None
) -> tuple[list[bool], int, int]:
    """Does one unit of so many rows, some of which end their worker, among harmless units: which
    of its rows were given up, the deaths, and the most rows of its unit that were scored."""
    scored = 0
    deaths = 0
    results = {}
    roster = Roster(score("a", "poison", "b", "c"), num_workers, 2)
    waiting: list[Task] = []
    while not roster.finished:
        waiting += hand_out(roster)
        task = waiting.pop(0)
        [name, *rest] = task.call.arguments
        rows = task.rows if task.rows is not None else range(num_rows)
        scores = task.call.method in ("score", "score_rows")
        if name == "poison" and scores:
            scored += len(rows)
        if dies(task) if dies else name == "poison" and scores and fatal & set(rows):
            deaths += 1
            roster.lost(task, "died")
            continue
        if task.call.method == "count":
            result: object = num_rows
        elif task.call.method == "score_rows":
            result = pa.table({"row": list(rows)})
        elif task.call.method == "join":
            result = [[None] if piece is None else piece["row"].to_pylist() for piece in rest[0]]
        else:
            result = [list(rows)]
        if (ended := roster.done(task, result)) is not None:
            call, value = ended
            assert call.arguments[0] not in results
            results[call.arguments[0]] = [row for piece in value for row in piece]
    assert sorted(results) == ["a", "b", "c", "poison"]
    found = results["poison"]
    assert [row for row in found if row is not None] == [
        row for row in range(num_rows) if row not in fatal
    ]
    return [row is None for row in found], deaths, scored


@pytest.mark.parametrize(
    ("num_rows", "fatal", "died"),
    [
        (4096, {1234}, 5),
        (4096, {0}, 5),
        (4096, {4095}, 5),
        (100, {7}, 4),
        (16, {7}, 3),
        (1, {0}, 3),
        (4096, {10, 4000}, 8),
        (4096, {10, 11, 12}, 7),
    ],
)
@pytest.mark.parametrize("num_workers", [1, 3])
def test_records_that_kill_are_given_up_alone_after_few_deaths(
    num_rows: int, fatal: set[int], died: int, num_workers: int
) -> None:
    given_up, deaths, scored = run(num_rows, fatal, num_workers)
    assert [row for row, bad in enumerate(given_up) if bad] == sorted(fatal)
    assert deaths == died
    assert scored <= 3 * num_rows + 1000, "twice as a whole and once in pieces"


def test_chance_deaths_convict_nobody() -> None:
    # Every second task loses its worker, whatever it holds, six times in all.
    seen = {"tasks": 0, "deaths": 0}

    def dies(task: Task) -> bool:
        seen["tasks"] += 1
        if seen["tasks"] % 2 and seen["deaths"] < 6:
            seen["deaths"] += 1
            return True
        return False

    given_up, deaths, _ = run(4096, set(), dies=dies)
    assert not any(given_up)
    assert deaths == 6


def test_what_cannot_be_cut_stops_the_job_after_a_few_deaths() -> None:
    roster = Roster([Call("sample", ("in.parquet, rows 0 to 9",))], 1, 1)
    for _ in range(MOST_REPEATS - 1):
        [task] = hand_out(roster)
        roster.lost(task, "died")
    [task] = hand_out(roster)
    with pytest.raises(JobStopped, match=r"in\.parquet, rows 0 to 9 lost its worker 4 times: died"):
        roster.lost(task, "died")


def test_workers_that_always_die_stop_the_job_before_all_rows_are_given_up() -> None:
    deaths = []

    def dies(task: Task) -> bool:
        if task.case.call.arguments[0] == "poison" and task.call.method != "count":
            deaths.append(task)
            return True
        return False

    with pytest.raises(JobStopped, match="poison lost its worker 32 times"):
        run(4096, set(), dies=dies)
    assert len(deaths) == MOST_LOSSES


def test_a_unit_that_cannot_be_read_again_is_a_problem_once() -> None:
    [call] = score("a")
    roster = Roster([call], 1, 1)
    for _ in range(2):
        [task] = hand_out(roster)
        roster.lost(task, "died")
    [task] = hand_out(roster)
    assert task.call.method == "count"
    assert roster.done(task, 32) is None
    problem = Problem("a", "gone")
    ended = []
    while not roster.finished:
        [task] = hand_out(roster)
        ended.append(roster.done(task, problem))
    assert [one for one in ended if one] == [(call, problem)]
