"""What the benchmark of rows one by one scores, and how it counts."""

from __future__ import annotations

import asyncio

import pytest
from singles.caller import drain
from singles.report import Found, shares, together
from singles.ways import scores_of
from singles.workload import GROUP, Stage, batches, dealt, read_stages, rows


def test_stages_are_read() -> None:
    assert read_stages("64:1,4096:8") == [Stage(64, 1), Stage(4096, 8)]
    assert read_stages("64") == [Stage(64, 1)]
    assert Stage(4096, 8).each == 512


@pytest.mark.parametrize("bad", ["60:1", "64:3", "8:8", "64:0", "x"])
def test_a_stage_without_whole_groups_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_stages(bad)


def test_rows_are_the_same_again_and_groups_differ() -> None:
    found = rows(5, 2 * GROUP)
    assert found == rows(5, 2 * GROUP)
    assert found[GROUP:] == rows(6, GROUP)
    shared = [(row["prompt"], row["reference"]) for row in found]
    assert len(set(shared[:GROUP])) == len(set(shared[GROUP:])) == 1
    assert shared[0] != shared[-1]
    assert len({row["output"] for row in found}) == 2 * GROUP


def test_no_group_is_dealt_twice() -> None:
    deals = dealt(10, Stage(64, 4), 256)
    assert deals == [(10, 64), (18, 64), (26, 64), (34, 64)]
    # What is in flight is the least.
    assert dealt(0, Stage(64, 2), 8) == [(0, 32), (4, 32)]


def test_batches_hold_whole_groups() -> None:
    found = rows(0, 5 * GROUP)
    pieces = batches(found, 2 * GROUP + 3)
    assert [len(piece) for piece in pieces] == [16, 16, 8]
    assert [row for piece in pieces for row in piece] == found


def test_so_many_calls_are_out_at_once_and_each_row_is_called_once() -> None:
    out = most = 0
    seen = []

    async def call(piece: list[dict[str, str]]) -> list[float]:
        nonlocal out, most
        out += 1
        most = max(most, out)
        await asyncio.sleep(0)
        out -= 1
        seen.extend(piece)
        return [0.0] * len(piece)

    found = rows(0, 4 * GROUP)
    assert asyncio.run(drain(call, [[row] for row in found], 5)) == len(found)
    assert most == 5
    assert sorted(row["output"] for row in seen) == sorted(row["output"] for row in found)


def test_an_answer_without_a_score_is_an_error() -> None:
    assert scores_of({"results": [{"score": -1.5}, {"score": 2.0}]}) == [-1.5, 2.0]
    with pytest.raises(RuntimeError, match="no score"):
        scores_of({"results": [{"score": None}]})


def test_time_is_from_the_first_beginning_to_the_last_end() -> None:
    assert together([[10.0, 14.0, 0.5], [11.0, 15.0, 0.25]]) == (5.0, 0.75)


def test_shares_are_of_the_batches_of_the_same_stage() -> None:
    def found(stage: str, way: str, seconds: float) -> Found:
        return Found(stage, way, 100, seconds, 1.0, 10, 10)

    table = shares(
        [
            found("64:1", "batches", 2.0),
            found("64:1", "connect", 4.0),
            found("512:8", "batches", 1.0),
            found("512:8", "connect", 1.0),
        ]
    )
    assert table == {
        "64:1": {"batches": 1.0, "connect": 0.5},
        "512:8": {"batches": 1.0, "connect": 1.0},
    }
