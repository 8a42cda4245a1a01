"""The command line: results on stdout, words on stderr, exit codes that say whose fault it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import GROUPS
from typer.testing import CliRunner, Result

from polar_ray.cli import cli
from polar_ray.cli.app import parse_settings
from polar_ray.cli.scoring import _print_results
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.encoding import load_tokenizer
from polar_ray.errors import ConfigError
from polar_ray.scorer import Scorer


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], input=stdin)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    extra = [{**row, "policy": "p"} for row in GROUPS]
    path.write_text("".join(json.dumps(row) + "\n" for row in extra))
    return path


def results(stdout: str) -> list[object]:
    return [json.loads(line) for line in stdout.splitlines()]


def test_a_pipe_gets_json_lines_in_order(rows: Path, tiny_dir: Path, scorer: Scorer) -> None:
    done = run("score", rows, "--model", tiny_dir, "max_tokens=256")
    assert done.exit_code == 0, done.output
    assert results(done.stdout) == scorer.score(GROUPS).to_pylist()
    assert "ignoring extra column(s): policy" in done.stderr


def test_stdin_is_jsonl(rows: Path, tiny_dir: Path, scorer: Scorer) -> None:
    done = run("score", "-", "--model", tiny_dir, "max_tokens=256", stdin=rows.read_bytes())
    assert results(done.stdout) == scorer.score(GROUPS).to_pylist()


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_output_is_one_row_per_input_row(
    rows: Path, tiny_dir: Path, scorer: Scorer, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"out.{ending}"
    done = run("score", rows, "--model", tiny_dir, "max_tokens=256", "--output", out)
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    expected = scorer.score(GROUPS)
    if ending == "parquet":
        assert pq.read_table(out).equals(expected)
    else:
        assert results(out.read_text()) == expected.to_pylist()
    assert "12 rows, 0 without a score" in done.stderr


def test_rows_without_a_score_say_why_and_the_exit_code_stays_zero(
    tmp_path: Path, tiny_dir: Path
) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"prompt": ["p"], "reference": ["r"], "output": pa.nulls(1)}), path)
    done = run("score", path, "--model", tiny_dir)
    assert done.exit_code == 0
    assert "null_field" in results(done.stdout)[0]["error"]  # type: ignore[call-overload, index]


def test_a_lost_device_ends_the_command_and_writes_no_row(
    tmp_path: Path, rows: Path, tiny_dir: Path
) -> None:
    out = tmp_path / "out.jsonl"
    options = ["--model", tiny_dir, "engine.type=stub", "--output", out]
    [token, *_] = load_tokenizer(tiny_dir).encode(str(GROUPS[-1]["output"]))
    done = run("score", rows, *options, f"engine.lost_device_token={token}")
    assert done.exit_code == 1
    assert "device is lost" in done.stderr
    assert not out.exists()
    assert run("score", rows, *options).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent.jsonl"], 2, "no file 'absent.jsonl'"),
        (["{rows}", "--model", "no/such"], 2, "'no/such' is not a directory"),
        (["{rows}", "max_tokens=many"], 2, "max_tokens='many'"),
        (["{rows}", "tokens=5"], 2, "tokens='5'"),
        (["{rows}", "nonsense"], 2, "'nonsense' is not key=value"),
        (["{rows}", "--output", "out.csv"], 2, "must end in"),
        (["{rows}", "--output", "no/such/out.jsonl"], 2, "no folder 'no/such'"),
        (["{rows}", "--output", "{rows}"], 2, "is the input file"),
        (["{rows}", "--output", "/proc/out.jsonl"], 1, "/proc/out.jsonl"),
        (["{rows}", "--address", "nonsense"], 2, "address='nonsense'"),
        (["{rows}", "--address", "http://x", "--timeout-s", "nan"], 1, "timeout_s=nan"),
        (["{rows}", "--address", "http://x", "--model", "m"], 2, "drop --model"),
        (["{rows}", "--address", "http://x", "--priority", "vip"], 1, "priority='vip'"),
        (["{rows}", "--address", "http://x", "--token-file", "/none"], 2, "token-file /none"),
        (["{rows}", "--address", "http://127.0.0.1:9"], 1, "cannot reach http://127.0.0.1:9"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_mistakes_are_one_line_and_a_code(
    rows: Path, tiny_dir: Path, arguments: list[str], code: int, message: str
) -> None:
    given = [argument.format(rows=rows) for argument in arguments]
    if "--model" not in given and "--address" not in given:
        given += ["--model", str(tiny_dir)]
    done = run("score", *given)
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_a_truncated_checkpoint_is_named(rows: Path, tiny_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny_dir.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for command in (["score", rows, "--model", copy], ["serve", f"model={copy}"]):
        done = run(*command)
        assert done.exit_code == 2
        assert "model.safetensors is damaged" in done.stderr


def test_the_script_runs_as_users_run_it(rows: Path, tiny_dir: Path) -> None:
    code = "from polar_ray.cli import main; main()"
    command = [sys.executable, "-c", code, "score", str(rows), "--model", str(tiny_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(results(done.stdout)) == len(GROUPS)


def test_the_input_survives_as_output_by_another_name(rows: Path, tmp_path: Path) -> None:
    before = rows.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(rows)
    done = run("score", rows, "--output", tmp_path / "link.jsonl")
    assert done.exit_code == 2
    assert rows.read_bytes() == before


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path, tiny_dir: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("5\n" * 3000)
    script = f"{sys.executable} -c 'from polar_ray.cli import main; main()'"
    options = f"--model {tiny_dir} engine.type=stub"
    command = f"set -o pipefail; {script} score {path} {options} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert len(results(done.stdout)) == 1
    assert (done.returncode, done.stderr) == (0, "")


def test_ids_that_change_their_kind_are_named(tmp_path: Path, tiny_dir: Path) -> None:
    def written(first: object, second: object) -> Path:
        path = tmp_path / "in.jsonl"
        ids = [first] * 1024 + [second]
        path.write_text("".join(json.dumps({**GROUPS[0], "id": one}) + "\n" for one in ids))
        return path

    out = tmp_path / "out.parquet"
    options = ("--model", tiny_dir, "engine.type=stub", "--output", out)
    for first, second in [(1, "a"), (None, "a")]:
        done = run("score", written(first, second), *options)
        assert done.exit_code == 1
        assert "ids are string in some rows" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    assert run("score", written("a", None), *options).exit_code == 0
    assert pq.read_table(out)["id"].to_pylist() == ["a"] * 1024 + [None]


def test_a_persons_table_shows_brackets_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scorer: Scorer
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    table = scorer.score([{**GROUPS[0], "id": "[/b]", "wrapper": "[red]"}])
    _print_results(iter([table]))
    shown = capsys.readouterr().out
    assert "[/b]" in shown
    assert "[red]" in shown


def test_pool_settings_come_from_yaml_and_key_value(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text("num_replicas: 3\nengine: {type: stub, seconds_per_token: 0.5}\n")
    config = parse_settings(PoolConfig, {}, [str(path), "num_replicas=4"])
    assert config.num_replicas == 4
    assert config.engine == StubEngineConfig(seconds_per_token=0.5)
    assert parse_settings(PoolConfig, {}, []).least_replicas == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("[1]", "must hold settings"),
        ("replicas: 3", "replicas=3"),
        ("1: 2", "1=2: no such setting"),
        ("model: \udcff", "is not YAML"),
    ],
)
def test_wrong_pool_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match=message):
        parse_settings(PoolConfig, {}, [str(path)])
    with pytest.raises(ConfigError, match="neither a YAML file nor key=value"):
        parse_settings(PoolConfig, {}, ["absent.yaml"])
