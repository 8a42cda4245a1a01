"""Suspected work is cut evenly, completely, and to one record after few deaths."""

from __future__ import annotations

import pytest

from polar_ray.planning.bisect import SPLIT, cut, is_guilty


@pytest.mark.parametrize("rows", [range(1), range(5, 6), range(16), range(3, 20), range(4096)])
def test_parts_are_even_and_complete(rows: range) -> None:
    parts = cut(rows)
    assert [row for part in parts for row in part] == list(rows)
    assert len(parts) <= SPLIT
    assert max(map(len, parts)) - min(map(len, parts)) <= -(-len(rows) // SPLIT)


def test_nothing_has_no_parts() -> None:
    assert cut(range(7, 7)) == []


def test_one_of_4096_is_alone_after_three_cuts() -> None:
    sizes = []
    rows = range(4096)
    while len(rows) > 1:
        rows = cut(rows)[3]
        sizes.append(len(rows))
    assert sizes == [256, 16, 1]


def test_guilt_takes_three_deaths_and_one_record() -> None:
    assert is_guilty(3, 1)
    assert not is_guilty(2, 1)
    assert not is_guilty(30, 2)
