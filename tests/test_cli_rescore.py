"""`polar-ray rescore` as people and programs run it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_pool import fake_pool
from sample_records import GROUPS
from typer.testing import CliRunner, Result

from polar_ray.cli import cli
from polar_ray.cli.rescoring import Due, _say, describe, histogram
from polar_ray.evaluate.read import MADE_BY

TABLE = pa.Table.from_pylist(
    [{"q": r["prompt"], "truth": {"text": r["reference"]}, "output": r["output"]} for r in GROUPS]
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pq.write_table(TABLE, tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["rescore", *map(str, arguments)])


def test_a_dataset_becomes_parts_and_two_kinds_of_words(
    source: Path, tmp_path: Path, tiny_dir: Path
) -> None:
    settings = ("prompt=q", "reference=truth.text", "engine.type=stub", "rows_per_part=5")
    done = run(source, tmp_path / "out", *settings, "--model", tiny_dir)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["num_errors"]) == (12, 0)
    assert sum(summary["histogram"].values()) == 12
    scores = pq.read_table(tmp_path / "out")["score"].to_pylist()
    assert min(map(float, summary["histogram"])) == min(scores) // 0.25 * 0.25
    events = [json.loads(line) for line in done.stderr.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.index("grouping") < kinds.index("start") < kinds.index("done")
    assert events[-1]["event"] == "done"
    assert (events[-1]["rows"], events[-1]["share"], events[-1]["eta_s"]) == (12, 1.0, 0.0)
    assert max(event.get("share", 0) for event in events) <= 1
    assert len(list((tmp_path / "out").glob("part-*"))) == 3


def test_what_was_rescored_is_evaluated(tmp_path: Path, tiny_dir: Path) -> None:
    labelled = pa.Table.from_pylist(GROUPS).append_column("correct", [[1, 0, 0] * 4])
    pq.write_table(labelled, tmp_path / "in.parquet")
    settings = ("engine.type=stub", "rows_per_part=5", "--model", tiny_dir)
    assert run(tmp_path / "in.parquet", tmp_path / "out", *settings).exit_code == 0
    done = CliRunner().invoke(cli, ["eval", "groups", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["figures"]["rows"] == 12
    assert said["facts"]["engine"] == "stub"
    assert set(said["facts"]) == {"file", *MADE_BY}


def test_settings_may_stand_in_a_file(source: Path, tmp_path: Path, tiny_dir: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        f"prompt: q\nreference: truth.text\nmodel: {tiny_dir}\nengine: {{type: stub}}\n"
    )
    done = run(source, tmp_path / "out", path, "prefix=a_", "--progress", "none")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert "a_score" in pq.read_table(tmp_path / "out" / "part-000000.parquet").column_names


def test_a_dry_run_writes_nothing(source: Path, tmp_path: Path, tiny_dir: Path) -> None:
    columns = ("prompt=q", "reference=truth.text", "--model", tiny_dir)
    done = run(source, tmp_path / "out", *columns, "--dry-run", "--tokens-per-s", "10")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["rows"], said["sampled_rows"], said["parts"]) == (12, 12, 1)
    assert 0 < said["tokens_after_sharing"] < said["tokens"]
    assert said["hours"] == pytest.approx(said["tokens"] / 36000, abs=1e-3)
    assert said["columns"]["reference"] == "truth.text"
    assert not (tmp_path / "out").exists()
    pooled = run(source, "out", *columns[:2], "--dry-run", "--address", "http://x")
    assert "tokens" not in json.loads(pooled.stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent", "out"], 2, "no file or folder 'absent'"),
        (["{source}", "out"], 2, "which column is the prompt?"),
        (["{source}", "out", "prompt=q"], 2, "which column is the reference?"),
        (["{source}", "{folder}", "prompt=q", "reference=q"], 2, "holds other files"),
        (["{source}", "out", "rows=3"], 2, "rows='3': no such setting"),
        (["{source}", "/proc/x", "prompt=q", "reference=q"], 2, "'/proc/x' cannot be written to: "),
        (["{source}", "/dev/null/x", "prompt=q", "reference=q"], 2, "written to: Not a directory"),
        (["{source}", "out", "--address", "x", "--app-name", "y"], 2, "are two pools"),
        (["{source}", "out", "prompt=q", "reference=q", "--address", "http://[::1]:9"], 1, "reach"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_mistakes_are_one_line_and_a_code(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str],
    code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = [one.format(source=source, folder=source.parent) for one in arguments]
    done = run(*given)
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_a_persons_progress_is_one_line() -> None:
    event = {
        "stage": "score",
        "rows": 12000,
        "total_rows": 50000,
        "tokens_per_s": 1234.5,
        "eta_s": 3725.0,
        "errors": {"null_field": 3},
    }
    words = "score, 12,000/50,000 rows, 1,234 tokens/s, 1:02:05 left, 3 null_field"
    assert describe(event) == words
    assert "left" not in describe({**event, "eta_s": None})
    assert describe({**event, "stage": "read", "total_rows": None, "errors": {}}) == (
        "read, 1:02:05 left"
    )


def test_a_persons_table_cuts_no_digest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    digest = "0123456789abcdef" * 4
    _say({"made_by": {"model_digest": digest}}, "rescored")
    assert digest in re.sub(r"[^0-9a-z]", "", capsys.readouterr().out)


def test_the_histogram_is_some_lines_however_wide_the_scores() -> None:
    facts = {"histogram": {"-100.0": 1, "0.0": 50, "0.75": 100}, "histogram_bin_width": 0.25}
    lines = histogram(facts)
    assert 2 <= len(lines) <= 21
    assert lines[-1].split()[-2:] == ["150", "#" * 40]
    assert histogram({"histogram": {}}) == []


def test_a_log_has_a_line_a_second_of_each_stage() -> None:
    due = Due(1.0)
    told = [
        due.now(stage, at) for stage, at in (("a", 0), ("a", 0.9), ("b", 0.9), ("a", 1), ("a", 1.5))
    ]
    assert told == [True, False, True, True, False]


COLUMNS = ("prompt=q", "reference=truth.text")
GUARD_S = 60.0
MAIN = "from polar_ray.cli import main; main()"


def test_a_pool_elsewhere_is_sent_the_token(source: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    with fake_pool() as pool:
        there = ("--address", pool.address, "--token-file", token)
        done = run(source, tmp_path / "out", *COLUMNS, *there)
    assert done.exit_code == 0, done.output
    assert set(pool.tokens) == {"Bearer secret"}
    assert "secret" not in "".join(path.read_text() for path in (tmp_path / "out").glob("_*.json"))
    alone = run(source, tmp_path / "other", *COLUMNS, "--token-file", token)
    assert (alone.exit_code, "is for an address" in alone.stderr) == (2, True)


def test_a_third_interrupt_waits_for_no_pool(source: Path, tmp_path: Path) -> None:
    command = ["rescore", str(source), str(tmp_path / "out"), *COLUMNS, "rows_per_part=2"]
    with fake_pool() as pool:
        pool.silent_after = 1
        job = subprocess.Popen(
            [sys.executable, "-c", MAIN, *command, "--address", pool.address],
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            until = time.monotonic() + GUARD_S
            while len(pool.queries) < 2:
                assert time.monotonic() < until, "no part is sent"
                time.sleep(0.05)
            for _ in range(3):
                job.send_signal(signal.SIGINT)
                time.sleep(0.3)
            _, said = job.communicate(timeout=GUARD_S)
        finally:
            job.kill()
    assert job.returncode == 130
    assert b"the same command goes on where this ended" in said
