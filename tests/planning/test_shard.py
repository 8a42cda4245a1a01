"""Shards: merge undoes shard, groups stay whole, costs come out even."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import GROUPS

from polar_ray.planning.shard import merge, row_costs, row_groups, shard

rows = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 5)), min_size=1, max_size=60)


def split(rows: list[tuple[int, int]], shards: int, minimum: int) -> list[np.ndarray]:
    costs = np.array([cost for cost, _ in rows], dtype=np.int64)
    groups = np.array([group for _, group in rows], dtype=np.int64)
    return shard(costs, groups, max_shards=shards, min_cost=minimum)


@given(rows, st.integers(1, 8), st.integers(1, 500))
def test_every_row_stands_in_exactly_one_shard(
    rows: list[tuple[int, int]], shards: int, minimum: int
) -> None:
    parts = split(rows, shards, minimum)
    assert 1 <= len(parts) <= shards
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(rows)))
    assert all((np.diff(part) > 0).all() for part in parts)


@given(rows, st.integers(1, 8))
def test_groups_stay_whole_unless_over_an_even_share(
    rows: list[tuple[int, int]], shards: int
) -> None:
    parts = split(rows, shards, 1)
    total = sum(cost for cost, _ in rows)
    share = -(-total // max(1, min(shards, total)))
    for group in {g for _, g in rows}:
        members = {i for i, (_, g) in enumerate(rows) if g == group}
        if sum(rows[i][0] for i in members) <= share:
            assert sum(bool(members & set(part.tolist())) for part in parts) == 1


@given(rows, st.integers(1, 8))
def test_no_shard_is_far_above_an_even_share(rows: list[tuple[int, int]], shards: int) -> None:
    total = sum(cost for cost, _ in rows)
    share = total / max(1, min(shards, total))
    largest_row = max(cost for cost, _ in rows)
    for part in split(rows, shards, 1):
        # Longest-processing-time stays within a block of the even share, and a block is a share
        # and one row at most.
        assert sum(rows[i][0] for i in part) <= 2 * share + 2 * largest_row + 2


@given(rows, st.integers(1, 8))
def test_merge_undoes_shard(rows: list[tuple[int, int]], shards: int) -> None:
    table = pa.table({"row": range(len(rows))})
    parts = split(rows, shards, 1)
    assert merge(parts, [table.take(pa.array(part)) for part in parts]) == table


def test_a_result_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 results for a shard of 2 rows"):
        merge([np.array([0, 1])], [pa.table({"row": [0]})])


def test_a_small_batch_is_not_cut() -> None:
    assert len(split([(10, g) for g in range(6)], 8, 1000)) == 1


def test_equal_groups_spread_evenly() -> None:
    parts = split([(100, row // 4) for row in range(32)], 4, 1)
    assert sorted(len(part) for part in parts) == [8, 8, 8, 8]


def test_one_large_group_is_split() -> None:
    parts = split([(100, 0)] * 16, 4, 1)
    assert sorted(len(part) for part in parts) == [4, 4, 4, 4]


def test_no_rows_make_no_shards() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert shard(none, none, max_shards=4, min_cost=1) == []


def test_groups_go_by_prompt_reference_and_wrapper() -> None:
    table = pa.Table.from_pylist(GROUPS)
    groups = row_groups(table).tolist()
    keys = [(row["prompt"], row["reference"]) for row in GROUPS]
    assert [groups.index(g) for g in groups] == [keys.index(k) for k in keys]
    wrapped = table.append_column("wrapper", pa.array(["sft", "pretrain"] * 6))
    assert len(set(row_groups(wrapped).tolist())) == 2 * len(set(groups))


def test_nulls_are_a_group_and_cost_nothing() -> None:
    table = pa.table({"prompt": ["a", None], "reference": ["b", None], "output": ["cd", None]})
    table = table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
    assert row_costs(table).tolist() == [2 + 1 + 2, 0]
    assert len(set(row_groups(table).tolist())) == 2


def test_costs_are_bytes_not_characters() -> None:
    table = pa.table({"prompt": ["长"], "reference": ["a"], "output": ["长城"]})
    assert row_costs(table).tolist() == [2 * 3 + 1 + 6]
