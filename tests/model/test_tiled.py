"""Tiles: every row of every run in exactly one, those that take longest first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.model.tiled import pad_tiles, plan_tiles
from polar_ray.model.varlen import Runs, pad_runs


def runs_of(sizes: list[tuple[int, int]]) -> Runs:
    """Of queries, and of keys before them."""
    queries, keys = (
        [0, *np.cumsum(one)] for one in ([q for q, _ in sizes], [q + k for q, k in sizes])
    )
    return Runs(np.arange(keys[-1]), np.array(queries), np.array(keys))


@pytest.mark.parametrize("group", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [16, 64])
@given(sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(0, 50)), min_size=1, max_size=5))
def test_every_row_is_in_one_tile(group: int, size: int, sizes: list[tuple[int, int]]) -> None:
    tiles = plan_tiles(runs_of(sizes), group, size)
    found = sorted(
        (int(run), row)
        for run, first in zip(tiles.runs, tiles.rows, strict=True)
        for row in range(first, min(first + size, sizes[run][0] * group))
    )
    assert found == [
        (n, row) for n, (queries, _) in enumerate(sizes) for row in range(queries * group)
    ]
    keys = [
        sizes[run][1] + min((first + size - 1) // group, sizes[run][0] - 1)
        for run, first in zip(tiles.runs, tiles.rows, strict=True)
    ]
    assert keys == sorted(keys, reverse=True)


@pytest.mark.parametrize("group", [1, 3])
@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(0, 50)), min_size=1, max_size=5),
    others=st.lists(st.integers(1, 90), min_size=1, max_size=5),
)
def test_tiles_that_are_padded_are_as_many_for_as_many_queries(
    group: int, sizes: list[tuple[int, int]], others: list[int]
) -> None:
    counts, total = set(), sum(q for q, _ in sizes) + sum(others)
    for queries in (sizes, [(q, 0) for q in others]):
        rest = total - sum(q for q, _ in queries)
        runs = pad_runs(runs_of([*queries, *[(rest, 0)] * (rest > 0)]), 8, 2000)
        tiles = plan_tiles(runs, group, 16)
        padded = pad_tiles(tiles, runs, group, 16)
        counts.add(len(padded.runs))
        assert padded.runs[: len(tiles.runs)].tolist() == tiles.runs.tolist()
        assert padded.rows[: len(tiles.rows)].tolist() == tiles.rows.tolist()
        behind = zip(padded.runs[len(tiles.runs) :], padded.rows[len(tiles.rows) :], strict=True)
        sizes_of = np.diff(runs.query_borders)
        assert all(row >= sizes_of[run] * group for run, row in behind), "those do nothing"
    assert len(counts) == 1


def test_heads_that_share_keys_fill_tiles() -> None:
    # 257 queries fill three blocks of 128 to 67 %; with four heads as rows, nine to 89 %.
    assert len(plan_tiles(runs_of([(257, 771)]), 1, 128).runs) == 3
    assert len(plan_tiles(runs_of([(257, 771)]), 4, 128).runs) == 9
