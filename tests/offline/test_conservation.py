"""Rows in are rows out or listed, each once, whatever was read, damaged, copied or changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rescoring import ROWS, TABLE, Config, Stop, expected, read, scores, stop_after

from polar_ray.data import formats
from polar_ray.data.splits import Split
from polar_ray.errors import ConfigError, JobStopped
from polar_ray.offline import inputs, rescore
from polar_ray.offline.conservation import Problem, check_conserved

GROUPINGS = pytest.mark.parametrize("group", ["never", "always"])


def split(number: int, start: int, stop: int, kind: str = "parquet") -> Split:
    return Split(number, "f", kind, start, stop, 1, (1, ""))


SPLITS = {"a": split(0, 0, 10), "b": split(1, 10, 15)}
SKIPPED = Problem("f, rows 10 to 15", "damaged", 5)


@pytest.mark.parametrize(
    ("parts", "skipped", "rows", "wrong"),
    [
        ({"a": 10, "b": 5}, [], 15, None),
        ({"a": 10}, [SKIPPED], 15, None),
        ({"a": 10, "b": 5}, [Problem("g", "no footer")], 15, None),
        ({"a": 10}, [], 15, "f, rows 10 to 15: in no part"),
        ({"a": 10, "b": 5}, [SKIPPED], 15, "f, rows 10 to 15: in a part and skipped"),
        ({"a": 10, "b": 4}, [], 15, "f, rows 10 to 15: b has 4 rows"),
        ({"a": 10, "b": 5}, [], 20, "20 rows in, 15 out or listed"),
    ],
)
def test_the_law_by_hand(
    parts: dict[str, int], skipped: list[Problem], rows: int, wrong: str | None
) -> None:
    if wrong is None:
        check_conserved(SPLITS, parts, skipped, rows)
        return
    with pytest.raises(JobStopped, match=wrong):
        check_conserved(SPLITS, parts, skipped, rows)


def test_lines_are_as_many_as_their_part_says() -> None:
    lines = {"a": split(0, 0, 1000, "jsonl")}
    check_conserved(lines, {"a": 3}, [], None)
    with pytest.raises(JobStopped, match="bytes 0 to 1000: in no part"):
        check_conserved(lines, {}, [], None)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the so manyth read fail, once."""
    real, left = formats.Reader._next, [0]

    def read(self: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(5, "Input/output error")
        return real(self)

    monkeypatch.setattr(formats.Reader, "_next", read)

    def fail_at(number: int) -> None:
        left[0] = number

    return fail_at


@pytest.mark.parametrize("at", [1, 7])
@GROUPINGS
def test_a_read_that_fails_once_loses_nothing(
    config: Config,
    source: Path,
    out: Path,
    flaky: Callable[[int], None],
    at: int,
    group: str,
) -> None:
    flaky(at)
    with pytest.raises(JobStopped, match=r"Input/output error.*on_corrupt=skip"):
        rescore(config(group=group), str(source), str(out))
    manifest = rescore(config(group=group), str(source), str(out))
    assert (manifest["rows"], manifest["skipped"]) == (ROWS, [])
    assert scores(read(out)) == expected(config())


@GROUPINGS
def test_what_was_skipped_is_read_again_by_a_job_that_may_not(
    config: Config, source: Path, out: Path, flaky: Callable[[int], None], group: str
) -> None:
    flaky(2)
    first = rescore(config(group=group, on_corrupt="skip"), str(source), str(out))
    [problem] = first["skipped"]
    assert first["rows"] == ROWS - problem["rows"]
    assert set(scores(read(out))) < set(range(ROWS))
    manifest = rescore(config(group=group), str(source), str(out))
    assert (manifest["rows"], manifest["skipped"]) == (ROWS, [])
    assert scores(read(out)) == expected(config())


@GROUPINGS
def test_lines_that_are_skipped_late_are_listed_and_the_rest_is_done(
    config: Config, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    real = formats.Reader.read

    def unreadable(self: Any, split: Split) -> Any:
        if split.number == 1:
            raise formats.Unreadable(f"{split} is away")
        return real(self, split)

    rows = (json.dumps(row) for row in TABLE.to_pylist())
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr(formats.Reader, "read", unreadable)
    chosen = config(group=group, on_corrupt="skip")
    manifest = rescore(chosen, str(tmp_path / "in.jsonl"), str(out))
    [problem] = manifest["skipped"]
    assert problem["rows"] is None
    assert 0 < len(scores(read(out))) == manifest["rows"] < ROWS


def test_a_kill_after_shuffling_does_not_forget_what_was_skipped(
    config: Config, source: Path, out: Path
) -> None:
    damage(source / "a.parquet")

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            raise Stop

    chosen = config(group="always", on_corrupt="skip")
    with pytest.raises(Stop):
        rescore(chosen, str(source), str(out), stop)
    manifest = rescore(chosen, str(source), str(out))
    assert [problem["rows"] for problem in manifest["skipped"]] == [10]
    assert manifest["rows"] == ROWS - 10
    # Nor does a job that is done, or goes on where parts are missing.
    assert rescore(chosen, str(source), str(out)) == manifest
    (out / "part-000001.parquet").unlink()
    assert rescore(chosen, str(source), str(out)) == manifest
    with pytest.raises(JobStopped, match=r"a\.parquet, rows 0 to 10 cannot be read"):
        rescore(config(group="always"), str(source), str(out))
    assert rescore(chosen, str(source), str(out)) == manifest


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4:300] = b"\xff" * 296
    path.write_bytes(data)


@GROUPINGS
def test_a_file_that_can_be_read_again_moves_no_part_to_other_rows(
    config: Config, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    real = inputs.extent

    def unreadable(filesystem: Any, file: Any, *rest: Any) -> Any:
        if file.path.endswith("a.parquet"):
            raise formats.Unreadable(f"{file.path} is away")
        return real(filesystem, file, *rest)

    chosen = config(group=group, on_corrupt="skip")
    with monkeypatch.context() as patch:
        patch.setattr(inputs, "extent", unreadable)
        assert rescore(chosen, str(source), str(out))["rows"] == 25
    manifest = rescore(chosen, str(source), str(out))
    assert (manifest["rows"], manifest["skipped"]) == (ROWS, [])
    assert scores(read(out)) == expected(config())


def flip(out: Path) -> None:
    path = out / "part-000002.parquet"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


def cut_short(out: Path) -> None:
    path = out / "part-000002.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def copy_over(out: Path) -> None:
    shutil.copy(out / "part-000000.parquet", out / "part-000002.parquet")


def write_anew(out: Path) -> None:
    path = out / "part-000002.parquet"
    pq.write_table(pq.read_table(path), path)


def one_more(out: Path) -> None:
    shutil.copy(out / "part-000002.parquet", out / "part-000099.parquet")


@pytest.mark.parametrize(
    ("tamper", "done", "group"),
    [
        (flip, True, "never"),
        (flip, True, "always"),
        (flip, False, "never"),
        (copy_over, True, "never"),
        (copy_over, False, "always"),
        (cut_short, False, "never"),
        (write_anew, True, "always"),
        (one_more, True, "never"),
        (one_more, True, "always"),
    ],
)
def test_parts_that_are_not_as_they_were_written_are_made_again(
    config: Config,
    source: Path,
    out: Path,
    tamper: Callable[[Path], None],
    done: bool,
    group: str,
) -> None:
    chosen = config(group=group, in_flight=1)
    if done:
        rescore(chosen, str(source), str(out))
    else:
        with pytest.raises(Stop):
            rescore(chosen, str(source), str(out), stop_after(4))
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    tamper(out)
    events: list[dict[str, Any]] = []
    manifest = rescore(chosen, str(source), str(out), events.append)
    assert manifest["rows"] == ROWS
    assert scores(read(out)) == expected(config())
    [said] = [event["what"] for event in events if event["event"] == "distrusted"]
    assert said == ("part-000099.parquet" if tamper is one_more else "part-000002.parquet")
    now = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert {name: at for name, at in kept.items() if name != said}.items() <= now.items()


@GROUPINGS
def test_a_copy_beside_the_parts_is_named_and_not_counted(
    config: Config, source: Path, out: Path, group: str
) -> None:
    chosen = config(group=group)
    first = rescore(chosen, str(source), str(out))
    stray = out / "part-000000 (1).parquet"
    shutil.copy(out / "part-000000.parquet", stray)
    with pytest.raises(ConfigError, match=r"part-000000 \(1\)\.parquet.*take it away"):
        rescore(chosen, str(source), str(out))
    stray.unlink()
    assert rescore(chosen, str(source), str(out)) == first


def test_a_damaged_shuffle_file_is_made_again(config: Config, source: Path, out: Path) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            raise Stop

    with pytest.raises(Stop):
        rescore(config(group="always"), str(source), str(out), stop)
    [shuffle] = out.glob("_shuffle-*")
    data = bytearray(shuffle.read_bytes())
    data[len(data) // 2] ^= 1
    shuffle.write_bytes(data)
    assert rescore(config(group="always"), str(source), str(out))["rows"] == ROWS
    assert scores(read(out)) == expected(config())


def in_place(path: Path) -> None:
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"parquet-cpp-arrow", b"parquet-cpp-arroW"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def another(path: Path) -> None:
    other = path.with_name("_new")
    pq.write_table(TABLE.slice(0, 25), other, row_group_size=8)
    other.replace(path)


@pytest.mark.parametrize("change", [in_place, another])
@pytest.mark.parametrize("stage", ["group", "score"])
def test_an_input_that_changes_while_the_job_runs_stops_it(
    config: Config, source: Path, out: Path, change: Callable[[Path], None], stage: str
) -> None:
    changed: list[Path] = []

    def listen(event: dict[str, Any]) -> None:
        if event.get("stage") == stage and not changed:
            changed.append(source / "b.parquet")
            change(changed[0])

    chosen = config(group="always" if stage == "group" else "never", in_flight=1)
    with pytest.raises(JobStopped, match=r"b\.parquet changed while the job ran"):
        rescore(chosen, str(source), str(out), listen)
    assert not (out / "_manifest.json").exists()
    with pytest.raises(ConfigError, match=r"another job: input file \S*b\.parquet ha"):
        rescore(chosen, str(source), str(out))


def test_an_input_of_the_same_size_and_time_is_another(
    config: Config, source: Path, out: Path
) -> None:
    rescore(config(), str(source), str(out))
    in_place(source / "a.parquet")
    with pytest.raises(
        ConfigError, match=r"a\.parquet has other content than it had, of the same size and time"
    ):
        rescore(config(), str(source), str(out))


@pytest.mark.parametrize("size", [0, 1, 100, 1 << 14, (1 << 18) - 1, 1 << 18])
def test_every_byte_of_a_small_file_counts(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(size))
    digest = inputs.content_digest(str(path))
    for at in {0, size // 3, size // 2, size - 1} if size else ():
        data = bytearray(size)
        data[at] = 1
        path.write_bytes(data)
        assert inputs.content_digest(str(path)) != digest, at


@pytest.mark.parametrize(
    ("name", "length", "group"),
    [("_job.json", 0, "always"), ("_job.json", 100, "never")],
)
def test_a_file_that_is_cut_short_is_named_with_the_way_out(
    config: Config, source: Path, out: Path, name: str, length: int, group: str
) -> None:
    rescore(config(group=group), str(source), str(out))
    path = out / name
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ConfigError, match=rf"{name} is damaged .*take this one away"):
        rescore(config(group=group), str(source), str(out))


def test_a_part_that_is_changed_while_the_job_runs_is_noticed(
    config: Config, source: Path, out: Path
) -> None:
    def shorten(event: dict[str, Any]) -> None:
        path = out / "part-000000.parquet"
        if path.exists() and event["event"] == "progress":
            pq.write_table(pq.read_table(path).slice(1), path)

    with pytest.raises(JobStopped, match=r"part-000000\.parquet was changed while the job ran"):
        rescore(config(in_flight=1), str(source), str(out), shorten)
    assert rescore(config(), str(source), str(out))["rows"] == ROWS
    assert scores(read(out)) == expected(config())
