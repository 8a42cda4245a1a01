"""What commands write and where: places are tried before any work, full disks leave nothing behind,
and the last line says how many rows have no score."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sample_records import GROUPS
from typer.testing import CliRunner, Result

from polar_ray.cli import cli
from polar_ray.scorer import Scorer


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text(
        "".join(json.dumps({**row, "chosen": "a", "rejected": "b"}) + "\n" for row in GROUPS)
    )
    return path


@contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    """No file of this process can be longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


SCORE, GROUPS_OF, PAIRS = (
    ["score", "{rows}"],
    ["eval", "groups", "{rows}"],
    ["eval", "preferences", "{rows}"],
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SCORE, "--output", "{folder}/no/out.jsonl"], "no folder '{folder}/no' for --output"),
        ([*SCORE, "--output", "{folder}/dir.jsonl"], "--output '{folder}/dir.jsonl' is a folder"),
        ([*SCORE, "--output", "/proc/out.jsonl"], "--output '/proc/out.jsonl': "),
        ([*SCORE, "--output", "{rows}"], "is the input file"),
        (["rescore", "{rows}", "{folder}/file"], "'{folder}/file' cannot be written to: "),
        (["rescore", "{rows}", "{folder}/file/out"], "cannot be written to: Not a directory"),
        (["rescore", "{rows}", "/proc/out"], "'/proc/out' cannot be written to: "),
        ([*GROUPS_OF, "--json", "{folder}/no/out.json"], "no folder '{folder}/no' for --json"),
        ([*GROUPS_OF, "--html", "{folder}/dir.jsonl"], "--html '{folder}/dir.jsonl' is a folder"),
        ([*GROUPS_OF, "--html", "/proc/out.html"], "--html '/proc/out.html': "),
        ([*PAIRS, "--json", "{rows}"], "--json '{rows}' is the input file"),
        ([*PAIRS, "--json", "{folder}/o", "--html", "{folder}/o"], "are both '{folder}/o'"),
        (["eval", "agreement", "{rows}", "{rows}", "--json", "/proc/x"], "--json '/proc/x': "),
    ],
    ids=lambda value: str(value)[-40:],
)  # fmt: skip
def test_places_are_tried_before_a_row_is_scored(
    rows: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    def score(scorer: Scorer, batch: object) -> object:
        raise AssertionError("a row was scored")

    monkeypatch.setattr(Scorer, "score", score)
    (rows.parent / "dir.jsonl").mkdir()
    (rows.parent / "file").touch()
    before = sorted(rows.parent.rglob("*"))
    names = {"rows": str(rows), "folder": str(rows.parent)}
    given = [argument.format(**names) for argument in arguments]
    if "agreement" not in given:
        given += ["--model", str(tiny_dir), "engine.type=stub"]
    done = run(*given)
    assert done.exit_code == 2, done.output
    assert message.format(**names) in done.stderr
    assert sorted(rows.parent.rglob("*")) == before


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "arrow"])
def test_a_full_disk_is_named_and_nothing_is_left(rows: Path, tiny_dir: Path, ending: str) -> None:
    out = rows.with_name(f"out.{ending}")
    with full_disk(100):
        done = run("score", rows, "--model", tiny_dir, "engine.type=stub", "--output", out)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == f"error: {out} cannot be written: File too large"
    assert list(rows.parent.iterdir()) == [rows]


def test_a_full_disk_leaves_a_report_as_it_was(rows: Path, tiny_dir: Path) -> None:
    out = rows.with_name("out.json")
    out.write_text("before")
    with full_disk(100):
        done = run("eval", "groups", rows, "--model", tiny_dir, "engine.type=stub", "--json", out)
    assert done.exit_code == 1
    assert done.stderr == f"error: {out} cannot be written: File too large\n"
    assert out.read_text() == "before"
    assert sorted(rows.parent.iterdir()) == [rows, out]


def test_a_report_goes_through_a_link_to_where_it_leads(rows: Path, tiny_dir: Path) -> None:
    out, link = rows.with_name("out.json"), rows.with_name("link.json")
    link.symlink_to(out)
    done = run("eval", "groups", rows, "--model", tiny_dir, "engine.type=stub", "--json", link)
    assert done.exit_code == 0, done.output
    assert link.is_symlink()
    assert out.read_text() == done.stdout


def test_a_full_disk_stops_a_job_and_leaves_no_partial_file(
    rows: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    # There is room for what describes the job, and for no part.
    with full_disk(3500):
        done = run("rescore", rows, tmp_path / "out", "--model", tiny_dir, "engine.type=stub")
    assert done.exit_code == 1, done.output
    assert "Parts that were written stay; run this again" in done.stderr
    assert not [path for path in (tmp_path / "out").iterdir() if "partial" in path.name]
    again = run("rescore", rows, tmp_path / "out", "--model", tiny_dir, "engine.type=stub")
    assert json.loads(again.stdout)["rows"] == len(GROUPS)


def test_a_full_disk_behind_stdout_is_named(rows: Path, tiny_dir: Path) -> None:
    code = "from polar_ray.cli import main; main()"
    command = [sys.executable, "-c", code, "score", rows, "--model", tiny_dir, "engine.type=stub"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == "error: stdout cannot be written: No space left on device"
    )


@pytest.mark.parametrize("to_file", [False, True])
def test_the_last_line_is_a_summary(rows: Path, tiny_dir: Path, to_file: bool) -> None:
    out = ["--output", rows.with_name("out.csv")] if to_file else []
    done = run("score", rows, "--model", tiny_dir, "engine.type=stub", *out)
    assert done.exit_code == 0
    place = f": {out[1]}" if out else ""
    assert done.stderr.splitlines()[-1] == f"12 rows, 0 without a score{place}"


def test_a_folder_of_damage_has_no_double_dots(tmp_path: Path, tiny_dir: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"PAR1" + b"x" * 100)
    for command in (["score"], ["rescore"]):
        out = [tmp_path / "out"] if command == ["rescore"] else []
        done = run(*command, tmp_path / "in.parquet", *out, "--model", tiny_dir)
        assert done.exit_code in (1, 2)
        assert "cannot be read" in done.stderr
        assert ".." not in done.stderr


def test_a_job_without_any_score_is_no_success(tmp_path: Path, tiny_dir: Path) -> None:
    path = tmp_path / "in.jsonl"
    bad = [{**GROUPS[0], "output": None}, {**GROUPS[0], "prompt": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in bad))
    done = run("rescore", path, tmp_path / "out", "--model", tiny_dir, "engine.type=stub")
    assert done.exit_code == 1, done.output
    assert json.loads(done.stdout)["errors"] == {"null_field": 2}
    assert "no row has a score" in done.stderr
