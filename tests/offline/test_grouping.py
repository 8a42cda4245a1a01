"""What records share across splits: estimated from hashes, and brought together by shuffling."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import GROUPS

from polar_ray.data.columns import Columns
from polar_ray.data.rows import Rows
from polar_ray.data.storage import place
from polar_ray.offline import grouping
from polar_ray.offline.conservation import Problem


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
    # Stems cost 2 * 1 + 3 = 5 bytes, outputs 5; two splits share one stem of two each.
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
def test_shuffle_files_hold_every_row_in_its_bucket(tmp_path: Path, count: int) -> None:
    rows = pa.Table.from_pylist([{**row, "n": n} for n, row in enumerate(GROUPS)])
    rows = rows.append_column("kind", pa.array(["a", "b", "c"] * 4).dictionary_encode())
    where = place(str(tmp_path))
    columns = Columns("prompt", "reference", "output")
    request = columns.apply(rows).table
    lost = [Problem("b, rows 0 to 9", "damaged", 9)]
    made = grouping.write_shuffle(where, 0, "a", Rows(rows, {2: "bad"}), request, lost, count)
    none = Rows(rows.slice(0, 0), {})
    grouping.write_shuffle(where, 1, "b", none, request.slice(0, 0), [], count)
    assert grouping.find_shuffle(where, 0, "a") == made
    assert made.skipped == lost
    assert sum(made.sizes) == 12
    assert grouping.find_shuffle(where, 0, "b") is None
    assert grouping.find_shuffle(where, 1, "b") == grouping.Shuffled([0] * count, [])
    # Of two that write the same, the first has written it.
    assert grouping.write_shuffle(where, 0, "a", none, request.slice(0, 0), [], count) == made
    found = [grouping.read_bucket(where, 2, bucket, count, columns) for bucket in range(count)]
    assert sorted(n for part in found for n in part.table["n"].to_pylist()) == list(range(12))
    kinds = {row["n"]: row["kind"] for part in found for row in part.table.to_pylist()}
    assert kinds == dict(enumerate(["a", "b", "c"] * 4))
    bad = [part.table["n"][at].as_py() for part in found for at in part.errors]
    assert bad == [2]
    for part in found:
        assert part.table.schema == rows.schema
        prompts = part.table["prompt"].to_pylist()
        assert len(list(groupby(prompts))) == len(set(prompts)), "a group stands in two places"
    groups = [set(part.table["prompt"].to_pylist()) for part in found]
    assert sum(map(len, groups)) == 4


def test_any_other_byte_of_a_bucket_shows(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([{**row, "n": n} for n, row in enumerate(GROUPS)])
    where, columns = place(str(tmp_path)), Columns("prompt", "reference", "output")
    grouping.write_shuffle(where, 0, "a", Rows(rows, {}), columns.apply(rows).table, [], 3)
    path = tmp_path / grouping.shuffle_name(0)
    data = path.read_bytes()
    whole = [grouping.read_bucket(where, 1, bucket, 3, columns) for bucket in range(3)]
    noticed = 0
    for at in range(0, len(data), 31):
        other = bytearray(data)
        other[at] ^= 1 << at % 8
        path.write_bytes(other)
        for bucket in range(3):
            try:
                found = grouping.read_bucket(where, 1, bucket, 3, columns)
            except pa.ArrowException:
                noticed += 1
            else:
                assert found == whole[bucket], (at, bucket)
    assert noticed > 50


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(1, 20))
def test_buckets_are_cut_exactly(sizes: list[int], rows: int) -> None:
    splits = grouping.cut_buckets(sizes, rows, 1000)
    assert [split.number for split in splits] == list(range(len(splits)))
    for bucket, size in enumerate(sizes):
        inside = [(s.start, s.stop) for s in splits if s.bucket == bucket]
        assert [row for start, stop in inside for row in range(start, stop)] == list(range(size))


def test_the_number_of_buckets_follows_the_rows() -> None:
    assert grouping.num_buckets(0, 100) == 1
    assert grouping.num_buckets(100 * grouping.SPLITS_PER_SHUFFLE * 5, 100) == 5
