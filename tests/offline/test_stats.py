"""Reports add up, whichever way they are grouped, and survive JSON."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.offline.progress import Progress
from polar_ray.offline.stats import BIN_WIDTH, PartReport, Stats, report_of
from polar_ray.records import score_table

rows = st.lists(st.none() | st.floats(-50, 50, width=32), max_size=20)


def scored(values: list[float | None]) -> PartReport:
    scores = np.array([np.nan if v is None else v for v in values], dtype=np.float32)
    table = score_table(
        scores,
        ["null_field: x: y" if v is None else None for v in values],
        truncated=[v is None for v in values],
        num_tokens=[3] * len(values),
        control_text=[False] * len(values),
    )
    return report_of(table)


@given(rows, rows)
def test_parts_add_up_to_the_whole(one: list[float | None], other: list[float | None]) -> None:
    apart, together = Stats(), Stats()
    for part in (one, other):
        apart.add(PartReport(**orjson.loads(orjson.dumps(asdict(scored(part))))))
    together.add(scored(one + other))
    apart.parts = together.parts = 0
    assert apart.to_json() == together.to_json()
    assert apart.rows == len(one + other)
    assert apart.num_errors == (one + other).count(None)
    assert sum(count for _, count in apart.bars()) == apart.rows - apart.num_errors
    orjson.dumps(apart.to_json())


def test_bins_begin_at_their_edge() -> None:
    stats = Stats()
    stats.add(scored([0.0, 0.24, 0.25, -0.01, 1.0]))
    assert stats.bars() == [(-0.25, 1), (0.0, 2), (0.25, 1), (0.5, 0), (0.75, 0), (1.0, 1)]
    assert stats.to_json()["histogram"] == {"-0.25": 1, "0.0": 2, "0.25": 1, "1.0": 1}
    assert BIN_WIDTH == 0.25
    assert Stats().bars() == []


def test_progress_tells_speed_of_this_run_and_time_left() -> None:
    progress = Progress("score", total_bytes=100, total_rows=40, started_s=10.0)
    assert progress.snapshot(10.0)["eta_s"] is None
    progress.resume(scored([1.0] * 10), 25)
    progress.add(scored([1.0, None]), 25)
    said = progress.snapshot(12.0)
    assert said["share"] == 0.5
    assert said["rows"] == 12
    assert said["rows_per_s"] == 1.0
    assert said["tokens_per_s"] == 3.0
    assert said["eta_s"] == pytest.approx(4.0)
    assert said["errors"] == {"null_field": 1}
