"""A job says that it is done when its parts prove it, and a rerun trusts what proves itself."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from rescoring import ROWS, TABLE, Config, Stop, expected, read, scores

from polar_ray.data import formats, storage
from polar_ray.errors import ConfigError, JobStopped
from polar_ray.offline import inputs, job, rescore, sealed

GROUPINGS = pytest.mark.parametrize("group", ["never", "always"])


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@GROUPINGS
@pytest.mark.parametrize("at", [60, -60])
def test_a_part_that_is_damaged_while_the_job_runs_is_noticed(
    config: Config, source: Path, out: Path, group: str, at: int
) -> None:
    part = out / "part-000000.parquet"
    done: list[bool] = []

    def damage(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and part.exists() and not done:
            flip(part, at)
            done.append(True)

    with pytest.raises(JobStopped, match=r"part-000000\.parquet was changed while the job ran"):
        rescore(config(group=group, in_flight=1), str(source), str(out), damage)
    assert not (out / "_manifest.json").exists()
    assert rescore(config(group=group), str(source), str(out))["rows"] == ROWS
    assert scores(read(out)) == expected(config())


@pytest.mark.parametrize("text", [b"", b"PAR1", b"no parquet at all"])
@GROUPINGS
def test_what_is_damaged_as_soon_as_it_is_written_is_noticed(
    config: Config,
    source: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: bytes,
    group: str,
) -> None:
    real = sealed.write_whole

    def write(where: Any, name: str, *rest: Any, **named: Any) -> bool:
        wrote = real(where, name, *rest, **named)
        (out / name).write_bytes(text)
        return wrote

    with monkeypatch.context() as patch:
        patch.setattr(sealed, "write_whole", write)
        with pytest.raises(JobStopped, match="was changed while the job ran"):
            rescore(config(group=group), str(source), str(out))
    assert rescore(config(group=group), str(source), str(out))["rows"] == ROWS


def test_a_shuffle_file_that_is_damaged_while_the_job_runs_is_noticed(
    config: Config, source: Path, out: Path
) -> None:
    def damage(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            [shuffle] = out.glob("_shuffle-*")
            flip(shuffle, shuffle.stat().st_size // 2)

    with pytest.raises(JobStopped, match="a shuffle file is damaged"):
        rescore(config(group="always"), str(source), str(out), damage)
    assert rescore(config(group="always"), str(source), str(out))["rows"] == ROWS
    assert read(out).drop_columns(["score"]).num_rows == ROWS
    assert scores(read(out)) == expected(config())


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "rows": lambda said: said.update(rows=7),
    "made_by": lambda said: said["made_by"].update(model="another"),
    "fingerprint": lambda said: said.update(fingerprint="0" * 64),
    "files cut": lambda said: said["files"].pop(),
    "no files": lambda said: said["files"].clear(),
    "a digest": lambda said: said["files"][0].update(sha256="0" * 64),
    "skipped": lambda said: said["skipped"].append({"what": "x", "reason": "y", "rows": 3}),
    "buckets": lambda said: said.update(buckets=[ROWS - 10]),
    "more buckets": lambda said: said.update(buckets=[ROWS, 10**15]),
    "odd": lambda said: said.update(buckets="many", skipped=7, files={"a": 1}),
    "empty": lambda said: said.clear(),
}


@pytest.mark.parametrize(
    ("group", "change"),
    [("never", EDITS["rows"]), *(("always", change) for change in EDITS.values())],
    ids=["never", *EDITS],
)
def test_a_manifest_that_somebody_edits_is_made_true_and_costs_no_part(
    config: Config, source: Path, out: Path, group: str, change: Callable[[dict[str, Any]], Any]
) -> None:
    chosen = config(group=group, on_corrupt="skip")
    first = rescore(chosen, str(source), str(out))
    parts = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    edit(out / "_manifest.json", change)
    events: list[dict[str, Any]] = []
    assert rescore(chosen, str(source), str(out), events.append) == first
    assert json.loads((out / "_manifest.json").read_text()) == first
    assert {path: path.stat().st_mtime_ns for path in out.glob("part-*")} == parts
    assert [e["what"] for e in events if e["event"] == "distrusted"] == ["_manifest.json"]
    assert not list(out.glob("_shuffle-*"))


@pytest.mark.parametrize(
    ("group", "text"),
    [("never", "[]"), *(("always", text) for text in ("", "[]", "{", '{"files": 3}', "\xff"))],
)
def test_a_manifest_of_another_shape_is_written_anew(
    config: Config, source: Path, out: Path, group: str, text: str
) -> None:
    first = rescore(config(group=group), str(source), str(out))
    (out / "_manifest.json").write_bytes(text.encode("latin-1"))
    assert rescore(config(group=group), str(source), str(out)) == first
    assert json.loads((out / "_manifest.json").read_text()) == first


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda said: said.update(num_buckets=7), "edited"),
        (lambda said: said["opened"]["lengths"].pop(), "edited"),
        (lambda said: said["identity"]["settings"].update(rows_per_part=20), "edited"),
        (lambda said: said.update(num_buckets="7"), "num_buckets='7'"),
        (lambda said: said.pop("sha256"), "sha256 is missing"),
        (lambda said: said["identity"].pop("inputs"), "identity.inputs is missing"),
        (lambda said: said.clear(), "identity is missing"),
    ],
)
def test_a_job_file_that_somebody_edits_is_refused_and_costs_no_part(
    config: Config, source: Path, out: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    rescore(config(group="always"), str(source), str(out))
    parts = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    edit(out / "_job.json", change)
    with pytest.raises(ConfigError, match=rf"_job\.json is damaged \(.*{reason}.*Put it back"):
        rescore(config(group="always"), str(source), str(out))
    assert {path: path.stat().st_mtime_ns for path in out.glob("part-*")} == parts


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: flip(path, 9)])
def test_a_job_file_that_changes_while_the_job_runs_is_put_back(
    config: Config, source: Path, out: Path, change: Callable[[Path], None]
) -> None:
    events: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "start":
            change(out / "_job.json")

    first = rescore(config(), str(source), str(out), listen)
    assert [e["what"] for e in events if e["event"] == "distrusted"] == ["_job.json"]
    assert rescore(config(), str(source), str(out)) == first


@pytest.mark.parametrize("text", ["[]", "3", '{"identity": 3}', '{"identity": {}}', "\xff"])
def test_a_job_file_of_another_shape_is_named(
    config: Config, source: Path, out: Path, text: str
) -> None:
    rescore(config(), str(source), str(out))
    (out / "_job.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"_job\.json is damaged"):
        rescore(config(), str(source), str(out))


def test_a_job_file_of_another_version_is_named(config: Config, source: Path, out: Path) -> None:
    rescore(config(), str(source), str(out))
    edit(out / "_job.json", lambda said: said["identity"].update(version=3))
    with pytest.raises(ConfigError, match=r"_job\.json is of another version .*format is 3"):
        rescore(config(), str(source), str(out))


@pytest.mark.parametrize("name", ["_job.json", "_manifest.json"])
def test_a_folder_in_the_place_of_a_jobs_file_is_named(
    config: Config, source: Path, out: Path, name: str
) -> None:
    (out / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match=rf"{name} is a folder, .* take it away"):
        rescore(config(), str(source), str(out))


@GROUPINGS
def test_a_file_that_arrives_while_the_job_runs_is_said(
    config: Config, source: Path, out: Path, group: str
) -> None:
    late = source / "late.parquet"

    def arrive(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            pq.write_table(TABLE, late)

    events: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        arrive(event)
        events.append(event)

    manifest = rescore(config(group=group), str(source), str(out), listen)
    assert (manifest["rows"], manifest["arrived"]) == (ROWS, [str(late)])
    [said] = [event for event in events if event["event"] == "arrived"]
    assert "late.parquet" in said["reason"]
    with pytest.raises(ConfigError, match=r"another job: input file \S*late\.parquet is new"):
        rescore(config(group=group), str(source), str(out))
    late.unlink()
    assert rescore(config(group=group), str(source), str(out)) == {**manifest, "arrived": []}


@pytest.mark.parametrize("gone", ["b.parquet", None])
def test_a_file_that_goes_while_the_job_runs_is_named(
    config: Config, source: Path, out: Path, gone: str | None
) -> None:
    def take_away(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["rows"] == ROWS:
            for path in source.glob(gone or "*"):
                path.unlink()

    with pytest.raises(JobStopped, match=r"while the job ran\. Parts are of what it was"):
        rescore(config(), str(source), str(out), take_away)
    assert not (out / "_manifest.json").exists()


@pytest.mark.parametrize("name", ["sub/x.parquet", "sub/part-000000.parquet", "X.PARQUET"])
def test_a_foreign_file_below_the_folder_is_named(
    config: Config, source: Path, out: Path, name: str
) -> None:
    path = out / name
    path.parent.mkdir(parents=True)
    pq.write_table(TABLE, path)
    with pytest.raises(ConfigError, match=rf"holds other files, such as {name}"):
        rescore(config(), str(source), str(out))
    path.unlink()
    rescore(config(), str(source), str(out))
    pq.write_table(TABLE, path)
    with pytest.raises(ConfigError, match=rf"{name} is no part of a job"):
        rescore(config(), str(source), str(out))
    path.unlink()
    (out / "_mine").mkdir()
    pq.write_table(TABLE, out / "_mine" / "x.parquet")  # nobody takes it for a part
    assert rescore(config(), str(source), str(out))["rows"] == ROWS


@pytest.mark.parametrize(
    "where", ["{source}/../in/scored", "{link}/scored", "{link}/../in", "{beside}"]
)
def test_a_folder_within_its_own_input_is_refused(
    config: Config, source: Path, tmp_path: Path, where: str
) -> None:
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "beside").mkdir()
    (source / "linked").symlink_to(tmp_path / "beside")
    chosen = where.format(source=source, link=tmp_path / "link", beside=tmp_path / "beside")
    with pytest.raises(ConfigError, match="would be read as"):
        rescore(config(), str(source), chosen)
    with pytest.raises(ConfigError, match="would be read as"):
        rescore(config(), f"{source}/**/*.parquet", chosen)


def test_what_is_wrong_with_the_folder_is_said_before_a_model_is_loaded(
    config: Config, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rescore(config(), str(source), str(out))
    (out.parent / "other").mkdir()
    pq.write_table(TABLE, out.parent / "other" / "x.parquet")

    def load(*_: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(job, "scoring_for", load)
    with pytest.raises(ConfigError, match="holds other files"):
        rescore(config(), str(source), str(out.parent / "other"))
    for changes, said in (
        ({"rows_per_part": 20}, "another job: rows_per_part was 10, is 20"),
        ({"prefix": "x_", "group": "always"}, "group was never, is always; prefix was '', is x_"),
    ):
        with pytest.raises(ConfigError, match=said):
            rescore(config(**changes), str(source), str(out))
    pq.write_table(TABLE, out / "x.parquet")
    with pytest.raises(ConfigError, match="is no part of a job"):
        rescore(config(), str(source), str(out))


@GROUPINGS
def test_a_column_may_have_any_name(config: Config, tmp_path: Path, out: Path, group: str) -> None:
    names = ["__polar_ray_error", "error_", "row", "polar_ray.report"]
    table = TABLE
    for name in names:
        table = table.append_column(name, [[f"{name} {n}" for n in range(ROWS)]])
    table = table.append_column("error", [[None] * ROWS])
    pq.write_table(table, tmp_path / "in.parquet")
    rescore(config(group=group, prefix="x_"), str(tmp_path / "in.parquet"), str(out))
    found = read(out)
    for name in names:
        assert found[name].to_pylist() == [f"{name} {n}" for n in found["n"].to_pylist()]
    assert found["error"].null_count == ROWS


@pytest.mark.parametrize("name", [b"\xff.parquet", b"\xff/a.parquet"])
def test_a_name_that_is_not_utf8_is_refused(
    config: Config, source: Path, out: Path, name: bytes
) -> None:
    path = Path(os.fsdecode(os.fsencode(source) + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    pq.write_table(TABLE, source / "c.parquet")
    os.rename(source / "c.parquet", path)
    with pytest.raises(ConfigError, match=r"\\udcff.*is not UTF-8.*rename it"):
        rescore(config(), str(source), str(out))
    with pytest.raises(ConfigError, match=r"\\udcff.*is not UTF-8.*rename it"):
        rescore(config(), str(path), str(out))
    path.unlink()
    with pytest.raises(ConfigError, match=r"\\udcff.*is not UTF-8.*rename it"):
        rescore(config(), str(source), os.fsdecode(os.fsencode(out) + b"\xff"))
    path.with_suffix(".txt").touch()  # nothing that is read
    assert rescore(config(), str(source), str(out))["rows"] == ROWS


@pytest.mark.parametrize("name", ["part-000002.parquet", "_manifest.json", "_job.json"])
def test_a_full_disk_is_said_of_the_file(
    config: Config, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    sync = os.fsync

    def full(file: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{file}"):
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JobStopped, match=rf"{out / name}: No space left on device"):
        rescore(config(), str(source), str(out))
    assert not list(out.glob(".*.partial"))


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Nothing can be written any more."""

    def begin() -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
        for name in ("link", "replace", "unlink", "open", "fsync"):
            monkeypatch.setattr(storage.os, name, refuse)

    return begin


@GROUPINGS
@pytest.mark.parametrize("skips", [False, True])
def test_a_job_that_is_done_says_so_where_nothing_can_be_written(
    config: Config,
    source: Path,
    out: Path,
    read_only: Callable[[], None],
    group: str,
    skips: bool,
) -> None:
    chosen = config(group=group, on_corrupt="skip")
    if skips:
        data = bytearray((source / "a.parquet").read_bytes())
        data[4:300] = b"\xff" * 296
        (source / "a.parquet").write_bytes(data)
    first = rescore(chosen, str(source), str(out))
    assert bool(first["skipped"]) is skips
    read_only()
    assert rescore(chosen, str(source), str(out)) == first
    with pytest.raises(ConfigError, match="another job"):
        rescore(config(rows_per_part=20), str(source), str(out))


@GROUPINGS
def test_a_job_that_is_not_done_says_so_where_nothing_can_be_written(
    config: Config, source: Path, out: Path, read_only: Callable[[], None], group: str
) -> None:
    rescore(config(group=group), str(source), str(out))
    flip(out / "part-000001.parquet", 60)
    said = (out / "_manifest.json").read_bytes()
    (out.parent / "new").mkdir()
    read_only()
    with pytest.raises(ConfigError, match="read-only here, and its job is not done"):
        rescore(config(group=group), str(source), str(out))
    assert (out / "_manifest.json").read_bytes() == said
    with pytest.raises(ConfigError, match="cannot be written to: it is read-only here"):
        rescore(config(group=group), str(source), str(out.parent / "new"))


def test_json_is_read_to_its_end_once_for_its_columns(
    config: Config, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    lines = [orjson.dumps({**row, "odd": row["n"] % 2 or "x"}) for row in TABLE.to_pylist()]
    (source / "a.jsonl").write_bytes(b"\n".join(lines[:35]))
    (source / "b.jsonl").write_bytes(b"\n".join(lines[35:]))
    monkeypatch.setattr(inputs, "TELL_S", 0.01)
    readings: list[str] = []
    said = threading.Event()
    real = formats._read_json

    def counted(filesystem: Any, file: Any, *rest: Any) -> Any:
        readings.append(file.path)
        assert said.wait(60), "nobody says that the input is read"
        return real(filesystem, file, *rest)

    monkeypatch.setattr(formats, "_read_json", counted)

    def stop(event: dict[str, Any]) -> None:
        if event.get("stage") == "read":
            said.set()
        elif event["event"] == "start":
            raise Stop

    with pytest.raises(Stop):
        rescore(config(), str(source), str(out), stop)
    assert len(readings) == 2
    manifest = rescore(config(), str(source), str(out))
    assert manifest["rows"] == ROWS
    assert len(readings) == 2, "what was found is kept with the job"
    found = read(out)
    assert scores(found) == expected(config())
    assert [json.loads(text) for text in found["odd"].to_pylist()] == [
        n % 2 or "x" for n in found["n"].to_pylist()
    ]
    (source / "a.jsonl").write_bytes(b"\n".join(lines[:34]))
    with pytest.raises(ConfigError, match=r"input file \S*a\.jsonl had"):
        rescore(config(), str(source), str(out))
    assert len(readings) == 4, "of other files it says nothing"


def test_a_folder_in_a_parts_place_is_named_with_the_way_out(
    config: Config, source: Path, out: Path
) -> None:
    rescore(config(), str(source), str(out))
    (out / "part-000001.parquet").unlink()
    (out / "part-000001.parquet").mkdir()
    with pytest.raises(JobStopped, match=r"part-000001\.parquet is a folder, .*; take it away"):
        rescore(config(), str(source), str(out))
    (out / "part-000001.parquet").rmdir()
    assert rescore(config(), str(source), str(out))["rows"] == ROWS


@pytest.mark.parametrize("name", ["_job.json", "_manifest.json", "_driver.json"])
def test_a_file_of_a_job_is_not_read_whatever_its_size(
    config: Config, source: Path, out: Path, name: str
) -> None:
    rescore(config(), str(source), str(out))
    with (out / name).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=rf"{name} has 1,099,511,627,776 bytes, which no job"):
        rescore(config(), str(source), str(out))


def test_a_pipe_in_the_place_of_a_jobs_file_is_named(
    config: Config, source: Path, out: Path
) -> None:
    rescore(config(), str(source), str(out))
    (out / "_job.json").unlink()
    with pytest.raises(ConfigError, match=r"such as part-.*, and no _job\.json that says whose"):
        rescore(config(), str(source), str(out))
    os.mkfifo(out / "_job.json")
    with pytest.raises(ConfigError, match=r"_job\.json is no plain file, .*; take it away"):
        rescore(config(), str(source), str(out))


def test_no_thread_to_score_with_is_one_line(
    config: Config, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("polar_ray.offline.executor.ThreadPoolExecutor.submit", refuse)
    with pytest.raises(JobStopped, match="can't start new thread: a limit of memory or processes"):
        rescore(config(), str(source), str(out))
