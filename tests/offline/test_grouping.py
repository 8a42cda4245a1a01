"""What records share across units: estimated from hashes, and brought together by spills."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from examples import GROUPS
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.data.storage import place
from polar_ray.offline import grouping


def table(rows: list[tuple[str, str, str]]) -> pa.Table:
    names = ("prompt", "reference", "output")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]) if rows else (
        pa.table({name: pa.array([], pa.string()) for name in names})
    )  # fmt: skip


def test_hashes_name_groups_across_tables() -> None:
    one, first = grouping.group_hashes(table([("p", "r", "a"), ("p", "s", "b"), ("p", "r", "c")]))
    assert one[0] == one[2] != one[1]
    assert sorted(first.tolist()) == [0, 1]
    other, _ = grouping.group_hashes(table([("p", "r", "z")]))
    assert other[0] == one[0]
    # The parts of a key are kept apart.
    a, b = (grouping.group_hashes(table([row]))[0][0] for row in [("ab", "c", ""), ("a", "bc", "")])
    assert a != b
    assert len(grouping.group_hashes(table([]))[0]) == 0


def test_saving_by_hand() -> None:
    # Stems cost 2 * 1 + 3 = 5 bytes, outputs 5; two units share one stem of two each.
    one = grouping.sample(table([("p", "rrr", "o"), ("p", "rrr", "oo"), ("q", "rrr", "oo")]))
    other = grouping.sample(table([("p", "rrr", "ooooo"), ("s", "rrr", "")]))
    assert sorted(one.stem_bytes.tolist()) == [5, 5]
    assert one.other_bytes == 5
    assert grouping.saving([one]) == 0
    assert grouping.saving([one, other]) == pytest.approx(5 / 30)
    assert grouping.most_saving([one, other]) == pytest.approx(20 / 30)
    assert grouping.saving([]) == 0


def test_a_large_estimate_keeps_a_part_of_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    def samples(groups: int) -> list[grouping.Sample]:
        random = np.random.default_rng(0)
        hashes = random.integers(0, 1 << 63, groups).astype(np.uint64)
        return [grouping.Sample(hashes, np.full(groups, 100), 100 * groups) for _ in range(4)]

    exact = grouping.saving(samples(4000))
    assert exact == pytest.approx(3 / 4 / 2)
    monkeypatch.setattr(grouping, "MOST_KEPT", 100)
    assert grouping.saving(samples(4000)) == pytest.approx(exact, abs=0.02)


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1), st.integers(1, 20))
def test_buckets_are_ranges_of_hashes(values: list[int], count: int) -> None:
    hashes = np.sort(np.array(values, dtype=np.uint64))
    buckets = grouping.bucket_of(hashes, count)
    assert (np.diff(buckets) >= 0).all()
    assert 0 <= buckets.min() <= buckets.max() < count


@pytest.mark.parametrize("count", [1, 3, 40])
def test_spills_hold_every_row_in_its_bucket(tmp_path: Path, count: int) -> None:
    rows = pa.Table.from_pylist([{**row, "n": n} for n, row in enumerate(GROUPS)])
    where = place(str(tmp_path))
    request = rows.select(["prompt", "reference", "output"])
    sizes = grouping.write_spill(where, "one", rows, request, {2: "bad"}, count)
    grouping.write_spill(where, "two", rows.slice(0, 0), request.slice(0, 0), {}, count)
    assert grouping.spill_sizes(where, "one") == sizes
    assert sum(grouping.spill_sizes(where, "two")) == 0
    found = [grouping.read_bucket(where, ["one", "two"], bucket) for bucket in range(count)]
    assert sorted(n for part, _ in found for n in part["n"].to_pylist()) == list(range(12))
    reasons = {n: r for part, rs in found for n, r in zip(part["n"].to_pylist(), rs, strict=True)}
    assert {n: r for n, r in reasons.items() if r} == {2: "bad"}
    for part, _ in found:
        assert part.schema == rows.schema
    groups = [set(part["prompt"].to_pylist()) for part, _ in found]
    assert sum(map(len, groups)) == 4


def test_the_number_of_buckets_follows_the_rows() -> None:
    assert grouping.num_buckets(0, 100) == 1
    assert grouping.num_buckets(100 * grouping.UNITS_PER_SPILL * 5, 100) == 5
