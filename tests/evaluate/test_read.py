"""Odd values in the columns of evaluations: each is named with its row, and none is a traceback."""

from __future__ import annotations

import json
import re
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from polar_ray.cli import cli
from polar_ray.errors import ConfigError
from polar_ray.evaluate import read


def run(*arguments: object) -> Result:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return CliRunner().invoke(cli, ["eval", *map(str, arguments)])


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PAIR = {"chosen_score": 2.0, "rejected_score": 1.0, "chosen": "a", "rejected": "b"}
ROW = {"prompt": "p", "reference": "r", "output": "o", "score": 1.0, "correct": True}


@pytest.mark.parametrize(
    ("command", "odd", "said"),
    [
        ("preferences", {"category": [1]}, "column 'category', row 1 (counted from 0): [1]"),
        ("preferences", {"category": {"a": 1}}, "column 'category', row 1"),
        ("preferences", {"chosen_score": 1e308}, "column 'chosen_score', row 1"),
        ("preferences", {"chosen_score": "x"}, "column 'chosen_score', row 1"),
        ("preferences", {"chosen_score": True}, "column 'chosen_score', row 1"),
        ("preferences", {"rejected_score": [1.0]}, "column 'rejected_score', row 1"),
        ("preferences", {"rejected_score": {}}, "column 'rejected_score', row 1"),
        ("groups", {"score": -1e308}, "column 'score', row 1"),
        ("groups", {"score": "high"}, "column 'score', row 1 (counted from 0): 'high'"),
        ("groups", {"score": "1_000"}, "column 'score', row 1"),
        ("groups", {"score": "\u0661"}, "column 'score', row 1"),
        ("groups", {"correct": 1e308}, "column 'correct', row 1"),
        ("groups", {"correct": None}, "column 'correct', row 1"),
        ("groups", {"correct": "right"}, "column 'correct', row 1"),
        ("groups", {"correct": [True]}, "column 'correct', row 1"),
    ],
)
@pytest.mark.parametrize("others", [1, 0])
def test_an_odd_value_is_named_with_its_row(
    tmp_path: Path, command: str, odd: dict[str, Any], said: str, others: int
) -> None:
    row = PAIR if command == "preferences" else ROW
    rows = [row] * others + [{**row, **odd}]
    done = run(command, lines(tmp_path / "in.jsonl", *rows))
    assert done.exit_code == 2, done.output
    assert said.replace("row 1", f"row {others}") in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e39, -1e308])
def test_a_number_that_no_score_can_be_is_refused(value: float) -> None:
    table = pa.table({"x": [0.0, None, value]})
    for kind in (read.scores, read.labels):
        with pytest.raises(ConfigError, match=r"column 'x', row [12] \(counted from 0\)"):
            kind(table, "x")


@pytest.mark.parametrize(
    ("column", "scores"),
    [
        (pa.array([1, None], pa.int8()), [1, np.nan]),
        (pa.array([2**60 + 1], pa.int64()), [2.0**60]),
        (pa.array(np.array([1.5, np.nan], np.float16)), [1.5, np.nan]),
        (pa.array([Decimal("1.25")], pa.decimal128(5, 2)), [1.25]),
        (pa.array([None, None], pa.null()), [np.nan, np.nan]),
        (pa.array(["1.5", None, " -2e3 "]), [1.5, np.nan, -2000]),
        (pa.array(["1.5", "2"]).dictionary_encode(), [1.5, 2]),
        (pa.array([1.5, 2.0]).dictionary_encode(), [1.5, 2]),
        (pa.array([], pa.string()), []),
    ],
)
def test_scores_are_numbers_however_they_are_kept(column: pa.Array, scores: list[float]) -> None:
    np.testing.assert_array_equal(read.scores(pa.table({"x": column}), "x"), scores)


def test_categories_are_named_as_they_are_written(tmp_path: Path) -> None:
    rows = [{**PAIR, "category": value} for value in ("a", 1, True, None, 1.5)]
    found = run("preferences", lines(tmp_path / "in.jsonl", *rows, PAIR))
    assert found.exit_code == 0, found.output
    counts = {k: v["count"] for k, v in json.loads(found.stdout)["figures"]["by_category"].items()}
    assert counts == {"a": 1, "1": 1, "true": 1, "1.5": 1, "(none)": 2}
    table = pa.table({"x": pa.array(["a", "b"]).dictionary_encode(), "y": [1, None]})
    assert read.categories(table, "x") == ["a", "b"]
    assert read.categories(table, "y") == ["1", "(none)"]


def test_equal_texts_are_a_tie_whatever_their_scores(tmp_path: Path, tiny_dir: Path) -> None:
    same = {"chosen": [{"content": "a"}], "rejected": [{"content": "a"}]}
    thought = {"chosen": "<think>b</think>a", "rejected": "<think>c</think>a"}
    other = {"chosen": "a", "rejected": "b"}
    rows = [{**PAIR, **side} for side in (same, other)]
    found = json.loads(run("preferences", lines(tmp_path / "in.jsonl", *rows)).stdout)["figures"]
    assert (found["ties"], found["accuracy"]["value"]) == (1, 0.75)
    texts = {"prompt": "p", "reference": "r"}
    path = lines(tmp_path / "texts.jsonl", *({**texts, **side} for side in (thought, other)))
    options = ["--model", tiny_dir, "engine.type=stub"]
    for strip, ties in (("strip_think=true", 1), ("strip_think=false", 0)):
        found = json.loads(run("preferences", path, strip, *options).stdout)["figures"]
        assert found["ties"] == ties


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("preferences", []), ("groups", []), ("agreement", ["{path}"])],
)
def test_what_a_tie_is_can_be_said_and_is_reported(
    tmp_path: Path, command: str, arguments: list[str]
) -> None:
    path = lines(tmp_path / "in.jsonl", {**PAIR, **ROW}, {**PAIR, **ROW, "correct": False})
    rest = [argument.format(path=path) for argument in arguments]
    done = run(command, path, *rest, "--tie-within", 0.5)
    assert json.loads(done.stdout)["figures"]["tie_within"] == 0.5
    for wrong in ("-1", "nan", "inf"):
        refused = run(command, path, *rest, "--tie-within", wrong)
        assert refused.exit_code == 2, refused.output
        assert "--tie-within" in refused.stderr


@pytest.mark.parametrize(
    "column",
    [
        pa.array([np.float16(1.5), None], pa.float16()),
        pa.array([Decimal("1.25"), None]),
        pa.array([b"a", None]),
        pa.array([[1], None]),
        pa.array([{"a": 1}, None]),
        pa.array([None, "a"]).dictionary_encode(),
        pa.array([0, None], pa.timestamp("ns")),
        pa.array([True, None]),
        pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8())),
    ],
    ids=lambda column: str(column.type),
)
def test_groups_and_keys_are_of_any_type(tmp_path: Path, column: pa.Array) -> None:
    table = pa.table({"key": column, "score": [1.0, 2.0]})
    assert len(set(read.names(table, ["key"]))) == 2
    assert read.matched(table, table.take([1, 0]), "key")["score"].to_pylist() == [1.0, 2.0]
    path = tmp_path / "in.parquet"
    try:
        pq.write_table(table, path)
    except pa.ArrowNotImplementedError:  # a type that parquet lacks
        return
    done = run("agreement", path, path, "--key", "key", "--group", "key")
    assert done.exit_code == 0, done.output


def test_keys_are_compared_as_text_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    one = pa.table({"id": [1, 2], "score": [1.0, 2.0]})
    other = pa.table({"id": ["2", "1"], "score": [2.0, 1.0]})  # as CSV has them
    assert read.matched(one, other, "id")["score"].to_pylist() == [1.0, 2.0]
    said = "the 'id' of row 1 (counted from 0), '2', is there 1 time(s) on one side and 0 on the"
    for ids in (["1", "3"], ["1", None]):
        with pytest.raises(ConfigError, match=re.escape(said)):
            read.matched(one, other.set_column(0, "id", [ids]), "id")
    for ids in (["1", "1"], [None, None]):
        twice = other.set_column(0, "id", [ids])
        with pytest.raises(ConfigError, match=re.escape("is there 2 time(s) on one side and 2 on")):
            read.matched(twice, twice, "id")
