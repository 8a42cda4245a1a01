"""The command line: results on stdout, words on stderr, exit codes that say whose fault it was."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_records import GROUPS
from typer.testing import CliRunner, Result

import polar_ray
from polar_ray.cli import cli
from polar_ray.cli.app import parse_settings
from polar_ray.cli.backend import Backend
from polar_ray.cli.printing import Printer
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.data.json_columns import from_json, is_json
from polar_ray.data.results import ResultWriter
from polar_ray.data.source import Source, load
from polar_ray.encoding import load_tokenizer
from polar_ray.errors import ConfigError, PoolError
from polar_ray.records import SCORE_SCHEMA
from polar_ray.scorer import Scorer
from polar_ray.token_file import first_token


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


@pytest.mark.parametrize(
    ("outputs", "options", "code", "said"),
    [
        (["o", None], [], 0, "2 rows, 1 without a score (1 null_field)"),
        ([None, None], [], 1, "2 rows, 2 without a score (2 null_field)"),
        (["o", None], ["--max-errors", "1"], 0, "1 without a score"),
        (["o", None], ["--max-errors", "0"], 1, "stopped: more than --max-errors 0: 2 rows, 1"),
        ([], [], 0, "0 rows"),
    ],
)
def test_the_exit_code_says_whether_rows_have_scores(
    tmp_path: Path, tiny_dir: Path, outputs: list[str], options: list[str], code: int, said: str
) -> None:
    path, out = tmp_path / "in.parquet", tmp_path / "out.jsonl"
    same = pa.array(["x"] * len(outputs), pa.string())
    table = pa.table({"prompt": same, "reference": same, "output": pa.array(outputs, pa.string())})
    pq.write_table(table, path)
    done = run("score", path, "--model", tiny_dir, "engine.type=stub", *options)
    assert done.exit_code == code, done.output
    assert said in done.stderr
    errors = [row["error"] for row in results(done.stdout)]  # type: ignore[index, call-overload]
    wanted = ["null_field" if output is None else None for output in outputs]
    assert [error and error.partition(":")[0] for error in errors] == wanted
    done = run("score", path, "--model", tiny_dir, "engine.type=stub", *options, "--output", out)
    assert done.exit_code == code
    assert out.exists() == ("stopped" not in said)


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
        (["absent.jsonl"], 2, "no file or folder 'absent.jsonl'"),
        (["{rows}", "--model", "no/such"], 2, "'no/such' is not a directory"),
        (["{rows}", "max_tokens=many"], 2, "max_tokens='many'"),
        (["{rows}", "tokens=5"], 2, "tokens='5'"),
        (["{rows}", "nonsense"], 2, "'nonsense' is neither key=value nor a file of settings"),
        (["{rows}", "{rows}"], 2, "is neither key=value nor a file of settings, whose name ends"),
        (["{rows}", "absent.yaml"], 2, "there is no file 'absent.yaml' to read settings from"),
        (["{rows}", "max_tokens=256", "a.yaml"], 2, "'a.yaml' is not key=value"),
        (["{rows}", "--output", "out.txt"], 2, "must end in"),
        (["{rows}", "--output", "no/such/out.jsonl"], 2, "no folder 'no/such'"),
        (["{rows}", "--output", "{rows}"], 2, "is the input file"),
        (["{rows}", "--output", "/proc/out.jsonl"], 2, "--output '/proc/out.jsonl': "),
        (["{rows}", "--address", "nonsense"], 2, "address='nonsense'"),
        (["{rows}", "--address", "http://x", "--timeout-s", "nan"], 2, "timeout_s=nan"),
        (["{rows}", "--address", "http://x", "--model", "m"], 2, "drop --model"),
        (["{rows}", "--address", "http://x", "--priority", "vip"], 2, "'vip' is not one of"),
        (["{rows}", "--priority", "eval"], 2, "--priority: for a pool; give its --address, too"),
        (["{rows}", "--token-file", "t"], 2, "--token-file: for a pool"),
        (["{rows}", "--timeout-s", "9", "--priority", "eval"], 2, "--timeout-s, --priority: for"),
        (["{rows}", "--address", "http://x", "--token-file", "/none"], 2, "token-file='/none'"),
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


@pytest.mark.parametrize("stdin", [False, True])
def test_columns_are_found_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdin: bool
) -> None:
    def load(self: Backend) -> NoReturn:
        pytest.fail("a model is loaded")

    monkeypatch.setattr(Backend, "open", load)
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"Prompt": "a", "reference": "b", "text": "c"}) + "\n")
    done = run("score", "-", stdin=path.read_bytes()) if stdin else run("score", path)
    assert done.exit_code == 2, done.output
    assert "there is Prompt; say prompt=Prompt; which column is the output?" in done.stderr


def test_a_model_that_is_not_there_is_named_before_the_input_is_read(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("{}\n")
    done = run("score", tmp_path / "in.jsonl", "--model", tmp_path / "absent")
    assert done.exit_code == 2
    assert "is not a directory" in done.stderr


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_settings_that_are_given_as_options_are_put_right(command: str) -> None:
    for options, said in (
        (["--model", "a/b"], "write model=a/b"),
        (["--num-replicas=2"], "write num_replicas=2"),
        (["--engine.type", "stub"], "write engine.type=stub"),
    ):
        done = run(command, *options)
        assert done.exit_code == 2
        assert said in done.stderr
    assert "write" not in run(command, "--nothing").stderr


def test_a_pool_says_that_it_starts_before_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def pool(config: PoolConfig, **where: Any) -> Iterator[str]:
        raise PoolError("replicas do not start")
        yield ""

    monkeypatch.setattr("polar_ray.pool.local.pool", pool)
    said = run("serve", "model=some/dir").stderr
    assert said.index("starting pool 'polar' with model some/dir") < said.index("do not start")
    assert "with model polar-tiny, the built-in one" in run("serve").stderr


def test_the_version_is_that_of_the_package() -> None:
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"polar-ray {polar_ray.__version__}\n")


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


def test_a_command_that_is_ended_leaves_nothing_behind(tiny_dir: Path, tmp_path: Path) -> None:
    code = "from polar_ray.cli import main; main()"
    options = ["--model", str(tiny_dir), "engine.type=stub", "--output", str(tmp_path / "o.jsonl")]
    command = [sys.executable, "-c", code, "score", "-", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(GROUPS[0]).encode() + b"\n")
        while not list(tmp_path.iterdir()):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        process.wait()
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_who_interrupts_is_told_what_was_written(
    rows: Path, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(scorer: Scorer, batch: pa.Table) -> pa.Table:
        raise KeyboardInterrupt

    monkeypatch.setattr(Scorer, "score", interrupted)
    out = tmp_path / "out.jsonl"
    done = run("score", rows, "--model", tiny_dir, "engine.type=stub", "--output", out)
    assert done.exit_code == 130
    assert done.stderr.endswith(f"stopped: 0 rows, 0 without a score; {out} is not written\n")
    assert sorted(tmp_path.iterdir()) == [rows]


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, tiny_dir: Path) -> None:
    (tmp_path / "in.jsonl").touch()
    done = run("score", tmp_path / "in.jsonl", "--model", tiny_dir, "engine.type=stub")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("0 rows")


def test_the_input_survives_as_output_by_another_name(rows: Path, tmp_path: Path) -> None:
    before = rows.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(rows)
    done = run("score", rows, "--output", tmp_path / "link.jsonl")
    assert done.exit_code == 2
    assert rows.read_bytes() == before


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path, tiny_dir: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text((json.dumps(GROUPS[0]) + "\n") * 3000)
    script = f"{sys.executable} -c 'from polar_ray.cli import main; main()'"
    options = f"--model {tiny_dir} engine.type=stub"
    command = f"set -o pipefail; {script} score {path} {options} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert len(results(done.stdout)) == 1
    assert (done.returncode, done.stderr) == (0, "")


IDS: list[list[object]] = [
    [1.5, 2.0],
    [True, False],
    [1, "a"],
    [None, "a"],
    ["a", None],
    [[1], {"b": 2}],
    [2**70, 1],
]


@pytest.mark.parametrize("ids", IDS, ids=str)
@pytest.mark.parametrize("to", ["stdout", "jsonl", "parquet", "csv"])
def test_ids_leave_as_they_came(tmp_path: Path, tiny_dir: Path, ids: list[object], to: str) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / f"out.{to}"
    given = [ids[0]] * 16 + [ids[1]]  # the first chunk, and the next
    path.write_text("".join(json.dumps({**GROUPS[0], "id": one}) + "\n" for one in given))
    options = ["--model", tiny_dir, "engine.type=stub"]
    for source in (path, "-"):
        stdin = path.read_bytes() if source == "-" else None
        end = ["--format", "jsonl"] if source == "-" else []
        place = [] if to == "stdout" else ["--output", out]
        done = run("score", source, *options, *place, *end, stdin=stdin)
        assert done.exit_code == 0, done.output
        if to == "stdout":
            assert [row["id"] for row in results(done.stdout)] == given  # type: ignore[index, call-overload]
        else:
            kept = load(Source(str(out)), ["id", "score"])
            assert kept.num_rows == 17
            assert kept["score"].null_count == 0
            if to != "csv":
                found = kept["id"].to_pylist()
                is_text = is_json(kept.schema.field("id"))
                assert (from_json(kept["id"]) if is_text else found) == given
    parts = tmp_path / "parts"
    assert run("rescore", path, parts, *options).exit_code == 0, "the same rule in rescore"


def test_ids_of_a_type_and_at_a_path_are_passed_through(tmp_path: Path, tiny_dir: Path) -> None:
    path, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    ids = pa.array(range(12), pa.uint16())
    inner = pa.StructArray.from_arrays([ids], names=["at"])
    table = pa.Table.from_pylist(GROUPS).select(["prompt", "reference", "output"])
    pq.write_table(table.append_column("extra", inner), path)
    options = ["--model", tiny_dir, "engine.type=stub", "id=extra.at"]
    assert run("score", path, *options, "--output", out).exit_code == 0
    assert pq.read_table(out).schema.field("id").type == pa.uint16()
    assert [row["id"] for row in results(run("score", path, *options).stdout)] == list(range(12))  # type: ignore[index, call-overload]


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv", "stdin"])
@pytest.mark.parametrize("to", [[], ["--output", "{folder}/out.parquet"]])
def test_an_id_column_that_is_not_there_is_refused(
    tmp_path: Path, tiny_dir: Path, ending: str, to: list[str]
) -> None:
    path = tmp_path / f"in.{'jsonl' if ending == 'stdin' else ending}"
    with ResultWriter(str(path)) as sink:
        sink.write(pa.Table.from_pylist([{**row, "n": 1} for row in GROUPS]))
    source, stdin = ("-", path.read_bytes()) if ending == "stdin" else (path, None)
    place = [one.format(folder=tmp_path) for one in to]
    options = ["--model", tiny_dir, "engine.type=stub", "id=idd", *place]
    done = run("score", source, *options, stdin=stdin)
    assert done.exit_code == 2, done.output
    assert "no column 'idd'; there are prompt, reference, output" in done.stderr


def test_an_id_that_comes_late_is_kept_or_named(tmp_path: Path, tiny_dir: Path) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    rows = [GROUPS[0]] * 9000 + [{**GROUPS[0], "id": 7}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--model", tiny_dir, "engine.type=stub"]
    done = run("score", path, *options, "--output", out)
    assert done.exit_code == 2, done.output
    assert "line 9001 of" in done.stderr
    assert "has an id, which the rows before it have not; say id=id" in done.stderr
    assert run("score", path, *options, "id=id", "--output", out).exit_code == 0
    assert pq.read_table(out)["id"].to_pylist() == [None] * 9000 + [7]
    assert json.loads(run("score", path, *options).stdout.splitlines()[-1])["id"] == 7


def test_a_persons_table_shows_brackets_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scorer: Scorer
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    table = scorer.score([{**GROUPS[0], "id": "[/b]", "wrapper": "[red]"}])
    Printer(as_json=False).write(table)
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
        ("applications: [{name: polar}]", r"takes it \(after an AuthenticationError: `export RAY"),
    ],
)
def test_wrong_pool_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match=message):
        parse_settings(PoolConfig, {}, [str(path)])


def test_every_command_takes_a_file_of_settings(rows: Path, tiny_dir: Path) -> None:
    path = rows.with_name("settings.yaml")
    path.write_text(f"model: {tiny_dir}\nengine: {{type: stub, salt: 7}}\n")
    salted = results(
        run("score", rows, "--model", tiny_dir, "engine.type=stub", "engine.salt=7").stdout
    )
    assert results(run("score", rows, path).stdout) == salted
    assert results(run("score", rows, path, "engine.salt=8").stdout) != salted
    by_file = run("eval", "groups", rows, path)
    assert json.loads(by_file.stdout)["facts"]["engine"] == "stub"
    assert (
        "engine.type"
        in run("verify", tiny_dir, path, "--server", "http://x", "--type", "vllm").stderr
    )
    path.write_text("score: 1\n")
    for command in (["score", rows], ["verify", "builtin"], ["demo"], ["serve"]):
        assert "score=1: no such setting" in run(*command, path).stderr
    for command in (["preferences", rows], ["groups", rows], ["agreement", rows, rows]):
        assert "score=1: no such setting" in run("eval", *command, path).stderr


def test_the_model_that_is_verified_is_the_one_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("model: absent\n")
    assert json.loads(run("verify", "builtin", path).stdout.splitlines()[0])["status"] == "pass"


def test_a_first_result_is_there_before_the_input_ends(tiny_dir: Path) -> None:
    """Rows stream: stdin stays open until the first rows have been answered."""
    code = "from polar_ray.cli import main; main()"
    command = [sys.executable, "-c", code, "score", "-", "--model", str(tiny_dir)]
    with subprocess.Popen(
        [*command, "engine.type=stub"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write((json.dumps(GROUPS[0]).encode() + b"\n") * 16)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["error"] is None
        process.stdin.close()
        assert len(process.stdout.read().splitlines()) == 15
    assert process.returncode == 0


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "arrow"])
@pytest.mark.parametrize("to", ["stdout", "jsonl", "csv", "parquet", "arrow"])
def test_columns_are_kept_before_the_results(
    tmp_path: Path, tiny_dir: Path, scorer: Scorer, ending: str, to: str
) -> None:
    kept = [{"question": r["prompt"], "reference": r["reference"], "solution": r["output"],
             "n": str(n), "score": "mine"} for n, r in enumerate(GROUPS)]  # fmt: skip
    path, out = tmp_path / f"in.{ending}", tmp_path / f"out.{to}"
    with ResultWriter(str(path) if ending != "json" else str(tmp_path / "x.jsonl")) as writer:
        writer.write(pa.Table.from_pylist(kept))
    if ending == "json":
        path.write_text(json.dumps(kept))
    names = ["prompt=question", "output=solution", "max_tokens=256"]
    options = [
        "--model",
        tiny_dir,
        "--keep-columns",
        *([] if to == "stdout" else ["--output", out]),
    ]
    done = run("score", path, *names, *options)
    assert done.exit_code == 2
    assert "the input has column(s) score already; " in done.stderr
    done = run("score", path, *names, *options, "prefix=polar_")
    assert done.exit_code == 0, done.output
    if to in ("stdout", "jsonl"):
        rows = results(done.stdout if to == "stdout" else out.read_text())
    else:
        rows = load(Source(str(out)), Source(str(out)).schema().names).to_pylist()
    wanted = scorer.score(GROUPS)["score"].to_pylist()
    assert [{k: row[k] for k in kept[0]} for row in rows] == kept  # type: ignore[index, call-overload]
    assert list(rows[0])[:6] == [*kept[0], "polar_score"]  # type: ignore[call-overload]
    found = [float(row["polar_score"]) for row in rows]  # type: ignore[index, call-overload]
    assert found == pytest.approx(wanted)


def test_kept_rows_of_json_stay_as_they_were(tmp_path: Path, tiny_dir: Path) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    rows = [{**GROUPS[0], "a": 1}] * 16 + [{**GROUPS[0], "a": "x", "new": [1, "y", None]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    options = ["--model", tiny_dir, "engine.type=stub", "keep_columns=true"]
    done = run("score", path, *options)
    assert done.exit_code == 0, done.output
    *scored, broken = results(done.stdout)
    assert [{k: v for k, v in row.items() if k not in SCORE_SCHEMA.names} for row in scored] == rows  # type: ignore[attr-defined]
    assert f"line 18 of {path} is not JSON" in broken["error"]  # type: ignore[index, call-overload]
    done = run("score", path, *options, "--output", out)
    assert done.exit_code == 0, done.output
    kept = [row for chunk in Source(str(out)).chunks() for row in chunk.to_pylist()]
    wanted = [{"new": None, **row} for row in rows]
    assert [{k: row[k] for k in wanted[0]} for row in kept[:17]] == wanted


def test_stdin_of_any_format_is_scored(tiny_dir: Path, scorer: Scorer) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(GROUPS), sink)
    wanted = scorer.score(GROUPS).to_pylist()
    options = ["--model", tiny_dir, "max_tokens=256"]
    for data in (sink.getvalue(), json.dumps(GROUPS).encode()):
        assert results(run("score", "-", *options, stdin=data).stdout) == wanted
    done = run("score", "-", *options, "--format", "parquet", stdin=b"{}")
    assert done.exit_code == 1
    assert "stdin cannot be read" in done.stderr


def test_chat_messages_with_parts_are_scored(
    tmp_path: Path, tiny_dir: Path, scorer: Scorer
) -> None:
    path = tmp_path / "in.jsonl"
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    rows: list[dict[str, object]] = [
        {**row, "prompt": [{"role": "user", "content": [{"type": "text", "text": row["prompt"]}]}]}
        for row in GROUPS
    ]
    rows.append({**GROUPS[0], "prompt": [{"role": "user", "content": [image]}]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("score", path, "--model", tiny_dir, "max_tokens=256")
    *scored, refused = results(done.stdout)
    assert scored == scorer.score(GROUPS).to_pylist()
    assert "part of type 'image_url'" in refused["error"]  # type: ignore[index, call-overload]
    assert "13 rows, 1 without a score (1 bad_message)" in done.stderr


def test_progress_is_told_to_machines_that_ask(rows: Path, tiny_dir: Path) -> None:
    options = ["--model", tiny_dir, "engine.type=stub"]
    silent = run("score", rows, *options, "--progress", "none").stderr
    told = run("score", rows, *options, "--progress", "json").stderr
    assert "progress" not in silent
    [event] = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert (event["rows"], event["share"], event["errors"]) == (12, 1.0, {})


def test_a_persons_table_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scorer: Scorer
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    printer = Printer(as_json=False)
    for at in (0, 6):
        printer.write(scorer.score(GROUPS[at : at + 6]))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert lines[0].split() == ["row", "score", "tokens", "notes"]
    assert [line.split()[0] for line in lines[1:]] == [str(n) for n in range(12)]


def test_the_first_line_that_is_no_comment_is_the_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"\xef\xbb\xbf# of the trainer\r\n\r\n  secret \r\nother\r\n")
    assert first_token(path, "--token-file") == "secret"
    path.write_text("# nothing\n")
    with pytest.raises(ConfigError, match=r"--token-file='.*tokens' holds no token"):
        first_token(path, "--token-file")
