"""`polar-ray score --address`: what a caller hears of a pool that changes or lets it wait."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sample_records import GROUPS
from typer.testing import CliRunner, Result

from polar_ray import client as module
from polar_ray.call_options import Priority
from polar_ray.cli import cli
from polar_ray.client import Client, waiting
from polar_ray.config import ScorerConfig, StubEngineConfig
from polar_ray.scorer import Scorer

FIRST, SECOND = 16, 64
"""Rows of a file that travel at once, at its beginning."""


class Updated:
    """A pool that gets another model after so many calls."""

    def __init__(self, before: Scorer, after: Scorer, calls: int) -> None:
        self.before, self.after, self.calls = before, after, calls
        self.asked = threading.Event()

    def carries(self, records: Any) -> bool:
        return False

    def send(self, batch: pa.Table, timeout_s: float, priority: Priority) -> pa.Table:
        self.calls -= 1
        return (self.before if self.calls >= 0 else self.after).score(batch)

    async def send_async(self, batch: pa.Table, timeout_s: float, priority: Priority) -> pa.Table:
        return self.send(batch, timeout_s, priority)

    def why_waiting(self) -> str:
        self.asked.set()
        return "the pool's only replica loads a model (12 s)"

    def close(self) -> None:
        pass


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(GROUPS[n % 12]) + "\n" for n in range(3 * SECOND)))
    return path


def stub(model: Path, salt: int = 0) -> Scorer:
    return Scorer(ScorerConfig(model=str(model), engine=StubEngineConfig(salt=salt)))


def score(monkeypatch: pytest.MonkeyPatch, pool: Updated, *arguments: object) -> Result:
    monkeypatch.setattr(module, "connect", lambda **_: Client(pool))
    given = ["score", *map(str, arguments), "--address", "http://pool"]
    return CliRunner().invoke(cli, given)


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_an_update_between_two_chunks_stops_the_job_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, source: Path, tiny_dir: Path, ending: str
) -> None:
    before, after = stub(tiny_dir), stub(tiny_dir, salt=1)
    out = source.with_name(f"out.{ending}")
    done = score(monkeypatch, Updated(before, after, 2), source, "--output", out)
    assert done.exit_code == 1
    assert f"changed at row {FIRST + SECOND} (counted from 0)" in done.stderr
    assert before.info.digest in done.stderr
    assert after.info.digest in done.stderr
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_what_is_on_stdout_is_said_to_be_of_the_former_model(
    monkeypatch: pytest.MonkeyPatch, source: Path, tiny_dir: Path
) -> None:
    done = score(monkeypatch, Updated(stub(tiny_dir), stub(tiny_dir, salt=1), 1), source)
    assert done.exit_code == 1
    assert f"the {FIRST} rows on stdout are of the former model only" in done.stderr
    assert len(done.stdout.splitlines()) == FIRST


def test_a_call_that_is_out_for_long_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, source: Path, tiny_dir: Path
) -> None:
    class Loading(Updated):
        def send(self, batch: pa.Table, timeout_s: float, priority: Priority) -> pa.Table:
            # Asked twice, so that the first answer has been told.
            for _ in range(2):
                assert self.asked.wait(60)
                self.asked.clear()
            return super().send(batch, timeout_s, priority)

    monkeypatch.setattr(waiting, "EVERY_S", 0.01)
    source.write_text(json.dumps(GROUPS[0]) + "\n")
    scorer = stub(tiny_dir)
    done = score(monkeypatch, Loading(scorer, scorer, 1), source)
    assert done.exit_code == 0
    waited = "waiting: the pool's only replica loads a model (12 s)"
    assert done.stderr == f"{waited}\n1 row, 0 without a score\n"
    assert len(done.stdout.splitlines()) == 1
