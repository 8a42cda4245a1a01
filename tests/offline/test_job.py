"""Every row once, whatever happens in between; the stub engine scores."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rescoring import ROWS, TABLE, Config, Stop, expected, read, scores, stop_after
from sample_records import BAD_ROWS, GROUPS

from polar_ray.config import RescoreConfig
from polar_ray.data.splits import cut
from polar_ray.data.storage import place, write_whole
from polar_ray.errors import ConfigError, JobStopped
from polar_ray.offline import rescore
from polar_ray.offline.identity import fingerprint
from polar_ray.offline.inputs import open_input
from polar_ray.offline.parts import part_name, write_part
from polar_ray.records import provenance
from polar_ray.scorer import Scorer


def test_rows_leave_as_they_came_with_their_scores(config: Config, source: Path, out: Path) -> None:
    manifest = rescore(config(), str(source), str(out))
    table = read(out)
    assert table.drop_columns(["score", "error", "truncated", "num_tokens", "control_text"]).equals(
        TABLE
    )
    assert scores(table) == expected(config())
    assert manifest["rows"] == ROWS
    assert manifest["num_errors"] == 0
    assert manifest["tokens"] == sum(table["num_tokens"].to_pylist())
    assert json.loads((out / "_manifest.json").read_text()) == manifest
    for one in manifest["files"]:
        data = (out / one["name"]).read_bytes()
        assert (one["sha256"], one["size_bytes"]) == (sha256(data).hexdigest(), len(data))
    assert provenance(pq.read_table(out / "part-000000.parquet"))["engine"] == "stub"
    assert sum(one["rows"] for one in manifest["files"]) == ROWS
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("group", ["never", "always"])
@pytest.mark.parametrize("ends", [[1], [3], [2, 4, 5]], ids=str)
def test_a_run_that_ends_early_is_gone_on_with(
    config: Config, source: Path, out: Path, ends: list[int], group: str
) -> None:
    chosen = config(group=group, in_flight=1)
    for parts in ends:
        with pytest.raises(Stop):
            rescore(chosen, str(source), str(out), stop_after(parts))
        assert not (out / "_manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert before
    events: list[dict[str, Any]] = []
    manifest = rescore(chosen, str(source), str(out), events.append)
    assert scores(read(out)) == expected(chosen)
    assert manifest["rows"] == ROWS
    assert events[-1]["resumed_rows"] >= ends[-1] * 10
    # What was there was not done again.
    assert {path: path.stat().st_mtime_ns for path in before} == before
    names = {path.name for path in out.iterdir() if not path.name.startswith("part-")}
    assert names == {"_job.json", "_manifest.json"}


def test_a_finished_job_has_nothing_left_to_do(config: Config, source: Path, out: Path) -> None:
    for group in ("never", "always"):
        folder = str(out / group)
        first = rescore(config(group=group), str(source), folder)
        events: list[dict[str, Any]] = []
        assert rescore(config(group=group), str(source), folder, events.append) == first
        assert next(e for e in events if e["event"] == "start")["missing"] == 0


@pytest.mark.parametrize("group", ["never", "always"])
def test_a_part_that_somebody_took_away_is_done_again(
    config: Config, source: Path, out: Path, group: str
) -> None:
    chosen = config(group=group)
    first = rescore(chosen, str(source), str(out))
    (out / "part-000002.parquet").unlink()
    assert rescore(chosen, str(source), str(out)) == first
    assert scores(read(out)) == expected(chosen)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"encoding": {"cut_side": "left"}},
            r"encoding was max_length .* cut right, .* is max_length .* cut left",
        ),
        ({"model": None}, "model was stub of tiny, is stub of polar-tiny"),
        ({"rows_per_part": 20}, "rows_per_part was 10, is 20"),
        ({"output": "reference"}, " output was output, is reference"),
        ({"engine": {"type": "native"}}, "engine.type was stub, is native"),
        ({"strip_think": True}, "strip_think was False, is True"),
        ({"prefix": "x_"}, "prefix was '', is x_"),
    ],
    ids=str,
)
def test_another_job_does_not_go_on_with_these_scores(
    config: Config, source: Path, out: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(Stop):
        rescore(config(), str(source), str(out), stop_after(1))
    with pytest.raises(ConfigError, match=named):
        rescore(config(**changes), str(source), str(out))


def test_changed_input_is_another_job(config: Config, source: Path, out: Path) -> None:
    rescore(config(), str(source), str(out))
    os.utime(source / "a.parquet", ns=(1, 1))
    with pytest.raises(
        ConfigError, match=r"input file \S*a\.parquet was of 20\S*, is of 1970-01-01"
    ):
        rescore(config(), str(source), str(out))


def test_settings_that_change_no_score_may_change(config: Config, source: Path, out: Path) -> None:
    with pytest.raises(Stop):
        rescore(config(), str(source), str(out), stop_after(1))
    rescore(config(max_tokens=64, in_flight=1, max_errors=3), str(source), str(out))
    assert scores(read(out)) == expected(config())


def test_folders_with_other_things_are_left_alone(config: Config, source: Path, out: Path) -> None:
    out.mkdir()
    pq.write_table(TABLE, out / "mine.parquet")
    with pytest.raises(ConfigError, match="holds other files"):
        rescore(config(), str(source), str(out))
    with pytest.raises(ConfigError, match="would be read as"):
        rescore(config(), str(source), str(source / "scored"))


def test_a_foreign_file_among_the_parts_is_named(config: Config, source: Path, out: Path) -> None:
    rescore(config(), str(source), str(out))
    pq.write_table(TABLE, out / "other.parquet")
    with pytest.raises(ConfigError, match=r"other\.parquet is no part of a job"):
        rescore(config(), str(source), str(out))


def test_a_part_that_went_while_the_job_ran_is_missed(
    config: Config, source: Path, out: Path
) -> None:
    def take_away(event: dict[str, Any]) -> None:
        (out / "part-000000.parquet").unlink(missing_ok=True)

    with pytest.raises(JobStopped, match=r"1 parts are not in .*, such as part-000000\.parquet"):
        rescore(config(in_flight=1), str(source), str(out), take_away)
    assert not (out / "_manifest.json").exists()
    assert rescore(config(), str(source), str(out))["rows"] == ROWS


def test_a_part_that_another_wrote_first_stays(config: Config, source: Path, out: Path) -> None:
    rescore(config(), str(source), str(out))
    split = cut(open_input(config(), str(source)).extents, 10)[1]
    name = part_name(split)
    before = (out / name).read_bytes()
    where, job = place(str(out)), json.loads((out / "_job.json").read_text())["identity"]
    rows = pq.read_table(out / name, columns=TABLE.column_names).replace_schema_metadata({})
    other = Scorer(config(engine={"type": "stub", "salt": 1}).scorer)
    result = other.score(rows.drop_columns(["n"]))
    written = write_part(where, split, rows, result, fingerprint=fingerprint(job), prefix="")
    assert (written.size_bytes, written.sha256) == (len(before), sha256(before).hexdigest())
    assert (out / name).read_bytes() == before
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_of_two_that_write_at_once_one_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_link(old: str, new: str) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    where, texts = place(str(tmp_path)), [str(n).encode() * 1000 for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        wrote = list(threads.map(lambda t: write_whole(where, "a", t, replace=False), texts))
    assert wrote.count(True) == 1
    assert (tmp_path / "a").read_bytes() == texts[wrote.index(True)]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_grouping_brings_groups_together(config: Config, source: Path, out: Path) -> None:
    manifest = rescore(config(group="always"), str(source), str(out))
    table = read(out)
    assert manifest["grouped"]
    assert scores(table) == expected(config())
    prompts = table["prompt"].to_pylist()
    changes = sum(one != other for one, other in pairwise(prompts))
    assert changes == len(set(prompts)) - 1


@pytest.mark.parametrize("shared", [True, False])
def test_grouping_by_itself_follows_what_it_saves(
    config: Config, tmp_path: Path, out: Path, shared: bool
) -> None:
    # The same three groups in every part, or each part with its own.
    def prompt(n: int) -> str:
        return f"{n % 3 if shared else n // 10} is a prompt " * 20

    rows = [{"prompt": prompt(n), "reference": "r", "output": "o", "n": n} for n in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    events: list[dict[str, Any]] = []
    manifest = rescore(config(group="auto"), str(tmp_path / "in.parquet"), str(out), events.append)
    assert manifest["grouped"] is shared
    [grouping] = [event for event in events if event["event"] == "grouping"]
    assert (grouping["saving"] > 0.5) is shared
    assert sorted(read(out)["n"].to_pylist()) == list(range(ROWS))


def test_jsonl_keeps_bad_rows_with_their_reason(config: Config, tmp_path: Path, out: Path) -> None:
    good = [{**row, "policy": f"p{n}"} for n, row in enumerate(GROUPS * 3)]
    bad = [row for row, _ in BAD_ROWS if not isinstance(row, dict) or "\ud800" not in row.values()]
    bad = [row for row in bad if not (isinstance(row, dict) and b"bytes" in row.values())]
    lines = [json.dumps(row) for row in [*good, *bad]] + ["{nonsense"]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    for group in ("never", "always"):
        folder = out / group
        manifest = rescore(
            config(rows_per_part=5, group=group), str(tmp_path / "in.jsonl"), str(folder)
        )
        table = read(folder)
        assert table.num_rows == len(lines) == manifest["rows"]
        assert manifest["num_errors"] == table["error"].drop_null().length()
        assert manifest["errors"]["not_an_object"] >= 4
        assert sorted(p for p in table["policy"].to_pylist() if p) == sorted(
            row["policy"] for row in good
        )
        assert table["score"].null_count == len(bad) + 1


def test_too_many_errors_stop_the_job_and_a_larger_number_goes_on(
    config: Config, tmp_path: Path, out: Path
) -> None:
    rows = [{**GROUPS[0], "output": None if n % 5 == 0 else "o", "n": n} for n in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    with pytest.raises(JobStopped, match=r"max_errors is 3: \d+ null_field"):
        rescore(config(max_errors=3, in_flight=1), str(tmp_path / "in.parquet"), str(out))
    assert 1 <= len(list(out.glob("part-*"))) < 6
    manifest = rescore(config(max_errors=12), str(tmp_path / "in.parquet"), str(out))
    assert manifest["errors"] == {"null_field": 12}


@pytest.mark.parametrize("group", ["never", "always"])
@pytest.mark.parametrize("where", ["footer", "pages"])
def test_corrupt_input_is_named_and_stops_or_is_left_out(
    config: Config, source: Path, out: Path, where: str, group: str
) -> None:
    path = source / "a.parquet"
    data = bytearray(path.read_bytes())
    if where == "footer":
        data[-6:] = b"broken"
    else:
        data[4:300] = b"\xff" * 296
    path.write_bytes(data)
    with pytest.raises(JobStopped, match=r"a\.parquet.*on_corrupt=skip"):
        rescore(config(group=group), str(source), str(out / "stop"))
    manifest = rescore(config(on_corrupt="skip", group=group), str(source), str(out / "skip"))
    assert manifest["skipped"]
    assert all("a.parquet" in one["reason"] for one in manifest["skipped"])
    found = scores(read(out / "skip"))
    wanted = expected(config())
    assert set(range(35, 60)) <= set(found)
    assert all(wanted[n] == score for n, score in found.items())


@pytest.mark.parametrize("group", ["never", "always"])
def test_empty_shards_are_no_rows(config: Config, tmp_path: Path, out: Path, group: str) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "0.jsonl").touch()
    with pa.output_stream(source / "2.jsonl.gz", compression="gzip"):
        pass
    with pytest.raises(ConfigError, match=r"holds no row: 2 file\(s\), all of them empty"):
        rescore(config(group=group), str(source), str(out))
    lines = [json.dumps(row) + "\n" for row in TABLE.to_pylist()]
    (source / "1.jsonl").write_text("".join(lines))
    rescore(config(group=group), str(source), str(out))
    assert scores(read(out)) == expected(config())


@pytest.mark.parametrize("group", ["never", "always"])
def test_compressed_jsonl_is_read_and_a_damaged_archive_is_named(
    config: Config, tmp_path: Path, out: Path, group: str
) -> None:
    (tmp_path / "in").mkdir()
    for number, ending in enumerate(("gz", "zst", "bz2")):
        lines = [json.dumps(row) + "\n" for row in TABLE.slice(number * 20, 20).to_pylist()]
        path = tmp_path / "in" / f"{number}.jsonl.{ending}"
        with pa.output_stream(path, compression="detect") as stream:
            stream.write("".join(lines).encode())
    source = str(tmp_path / "in")
    manifest = rescore(config(rows_per_part=6, group=group), source, str(out / "all"))
    assert scores(read(out / "all")) == expected(config())
    assert len(manifest["files"]) > 3
    data = (tmp_path / "in" / "1.jsonl.zst").read_bytes()
    (tmp_path / "in" / "1.jsonl.zst").write_bytes(data[:-9])
    with pytest.raises(JobStopped, match=r"1\.jsonl\.zst cannot be read.*on_corrupt=skip"):
        rescore(config(group=group), source, str(out / "some"))
    left = rescore(config(group=group, on_corrupt="skip"), source, str(out / "some"))
    assert [Path(one["what"]).name for one in left["skipped"]] == ["1.jsonl.zst"]
    assert set(scores(read(out / "some"))) == {*range(20), *range(40, 60)}


def test_a_full_disk_ends_the_run_and_not_the_job(
    config: Config, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, done = os.link, []

    def full(old: str, new: str) -> None:
        if "part-" in str(new):
            done.append(new)
            if len(done) > 2:
                raise OSError(28, "No space left on device")
        link(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        with pytest.raises(JobStopped, match=r"No space left.*run this again"):
            rescore(config(), str(source), str(out))
    assert len(list(out.glob("part-*"))) == 2
    assert not list(out.glob(".*"))
    rescore(config(), str(source), str(out))
    assert scores(read(out)) == expected(config())


def test_input_that_vanishes_ends_the_run(
    config: Config, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(event: dict[str, Any]) -> None:
        (source / "b.parquet").unlink(missing_ok=True)

    with pytest.raises(JobStopped, match=r"b\.parquet"):
        rescore(config(in_flight=1), str(source), str(out), vanish)


def test_scores_take_no_columns_name(config: Config, tmp_path: Path, out: Path) -> None:
    path = str(tmp_path / "in.parquet")
    pq.write_table(TABLE.append_column("score", [[1.0] * ROWS]), path)
    with pytest.raises(ConfigError, match=r"column\(s\) score already.*prefix="):
        rescore(config(), path, str(out))
    rescore(config(prefix="new_"), path, str(out))
    table = read(out)
    assert table["score"].to_pylist() == [1.0] * ROWS
    assert table["new_score"].null_count == 0


def test_objects_of_a_store_are_read_and_written(config: Config) -> None:
    where = place("memory://in")
    where.filesystem.create_dir(where.path)
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    write_whole(where, "a.parquet", sink.getvalue())
    with pytest.raises(Stop):
        rescore(config(), "memory://in/*.parquet", "memory://out", stop_after(2))
    manifest = rescore(config(), "memory://in/*.parquet", "memory://out")
    assert manifest["rows"] == ROWS
    import pyarrow.dataset as pads

    result = place("memory://out")
    table = pads.dataset(result.path, filesystem=result.filesystem).to_table()
    assert scores(table) == expected(config())


def test_an_empty_input_has_an_empty_manifest(config: Config, tmp_path: Path, out: Path) -> None:
    pq.write_table(TABLE.slice(0, 0), tmp_path / "in.parquet")
    manifest = rescore(config(), str(tmp_path / "in.parquet"), str(out))
    assert (manifest["rows"], manifest["files"]) == (0, [])


def test_a_pool_and_a_scorer_of_ones_own_exclude_each_other() -> None:
    environment = {"runtime_env": {"pip": ["sglang"]}}
    for wrong in (
        {"app_name": "a", "address": "b"},
        {"app_name": "a", "model": "m"},
        {"app_name": "a", **environment},
    ):
        with pytest.raises(ValueError, match="pool"):
            RescoreConfig.model_validate(wrong)
    with pytest.raises(ValueError, match="it needs num_workers"):
        RescoreConfig.model_validate(environment)
