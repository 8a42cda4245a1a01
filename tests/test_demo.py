"""`polar-ray demo`: the ranked table, and two ways that must agree."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from polar_ray.cli import cli
from polar_ray.demo import PENCILS_OUTPUTS, RECORDS, largest_difference
from polar_ray.records import SCORE_SCHEMA


def result(*scores: float | None, tokens: int = 3) -> pa.Table:
    count = len(scores)
    columns = {
        "score": list(scores),
        "error": [None if score is not None else "engine_error: x" for score in scores],
        "truncated": [False] * count,
        "num_tokens": [tokens] * count,
        "control_text": [False] * count,
    }
    return pa.table(columns, schema=SCORE_SCHEMA)


def test_the_largest_difference_is_between_scores() -> None:
    assert largest_difference(result(1.0, 2.0, None), result(1.0, 2.5, None)) == 0.5


@pytest.mark.parametrize("other", [result(1.0), result(1.0, None), result(1.0, 2.0, tokens=4)])
def test_anything_else_must_be_equal(other: pa.Table) -> None:
    assert np.isinf(largest_difference(result(1.0, 2.0), other))


@pytest.mark.ray
def test_demo_prints_candidates_ranked_by_reward(cluster: None) -> None:
    run = CliRunner().invoke(cli, ["demo", "num_cpus=0.1"], env={"COLUMNS": "200"})
    assert run.exit_code == 0, run.output
    assert "the handle and HTTP agree on every score" in run.output
    lines = run.output.splitlines()

    def line_of(text: str) -> int:
        return next(number for number, line in enumerate(lines) if text in line)

    assert line_of("Beijing.") < line_of("Shanghai.")
    right, off_topic = PENCILS_OUTPUTS[0][:40], PENCILS_OUTPUTS[-2][:40]
    assert line_of(right) < line_of(off_topic)
    assert all(line_of(str(record.output)[:20]) for record in RECORDS)
