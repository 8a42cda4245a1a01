"""What is wrong with a row has one name, whichever command reads it and from whatever format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from polar_ray.cli import cli
from polar_ray.config import RescoreConfig
from polar_ray.offline import rescore

GOOD = {"prompt": "p", "reference": "r", "output": "o"}
ABSENT = 'null_field: output is null or not there; send a string (an empty one is "")'


def errors_of(tiny_dir: Path, path: Path) -> list[str | None]:
    """The errors of all rows by both commands, which agree."""
    command = ["score", str(path), "--model", str(tiny_dir), "engine.type=stub"]
    done = CliRunner().invoke(cli, command)
    scored = [json.loads(line)["error"] for line in done.stdout.splitlines()]
    given = {"model": str(tiny_dir), "engine": {"type": "stub"}}
    out = path.with_name("out")
    rescore(RescoreConfig.model_validate(given), str(path), str(out))
    rescored = pq.read_table(out)["error"].to_pylist()
    assert [_without_place(text) for text in scored] == [_without_place(t) for t in rescored]
    return scored


def _without_place(text: str | None) -> Any:
    """A row of JSON lines stands in its line for one command and at its byte for the other."""
    return text and text.partition(" of ")[2 if " of " in text else 0]


def test_a_text_that_is_not_there_has_one_name(tmp_path: Path, tiny_dir: Path) -> None:
    rows = [GOOD, {**GOOD, "output": None}, {k: v for k, v in GOOD.items() if k != "output"}]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert errors_of(tiny_dir, path) == [None, ABSENT, ABSENT]


def test_an_empty_cell_is_no_text_and_two_quotes_are(tmp_path: Path, tiny_dir: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('prompt,reference,output\np,r,\np,r,""\n')
    assert errors_of(tiny_dir, path) == [ABSENT, None]


@pytest.mark.parametrize("line", ["5", "{,", '{"output": 5}'])
def test_a_bad_line_has_one_name(tmp_path: Path, tiny_dir: Path, line: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n")
    [good, bad] = errors_of(tiny_dir, path)
    assert (good, bad is None) == (None, False)
