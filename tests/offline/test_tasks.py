"""Splits in Ray tasks, scored by a pool of the cluster: the job's own, or one that runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import kill, own, replica_pids
from sample_records import GROUPS

from polar_ray.config import PoolConfig, RescoreConfig, ScorerConfig, StubEngineConfig
from polar_ray.encoding import load_tokenizer
from polar_ray.errors import JobStopped, PoolError
from polar_ray.offline import rescore
from polar_ray.pool.local import pool as serving
from polar_ray.scorer import Scorer

pytestmark = pytest.mark.ray

ROWS = 200
TABLE = pa.Table.from_pylist(
    [{**GROUPS[n % 12], "output": f"output {n}", "n": n} for n in range(ROWS)]
)
GUARD_S = 300.0


@pytest.fixture
def source(tmp_path: Path) -> str:
    pq.write_table(TABLE, tmp_path / "in.parquet", row_group_size=50)
    return str(tmp_path / "in.parquet")


@pytest.fixture
def running(cluster: None, tiny_dir: Path) -> Iterator[str]:
    """The name of a pool that is slow enough for work to be lost with whom it is at."""
    engine = StubEngineConfig(seconds_per_token=2e-5)
    settings = PoolConfig(model=str(tiny_dir), num_cpus=0.1, num_replicas=2, engine=engine)
    with serving(settings, name="rescored", route_prefix="/rescored"):
        yield "rescored"


def config(tiny_dir: Path, **changes: Any) -> RescoreConfig:
    given = {"model": str(tiny_dir), "engine.type": "stub", "rows_per_part": 10, "group": "never"}
    return RescoreConfig.model_validate({**given, "num_workers": 2, "num_cpus": 0.1, **changes})


def by_name(name: str, **changes: Any) -> RescoreConfig:
    given = {"app_name": name, "rows_per_part": 10, "group": "never"}
    return RescoreConfig.model_validate({**given, **changes})


def check(out: Path, tiny_dir: Path) -> None:
    table = pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("part-*"))])
    scorer = Scorer(ScorerConfig.model_validate({"model": str(tiny_dir), "engine.type": "stub"}))
    expected = scorer.score(TABLE.drop_columns(["n"]))
    assert table["n"].to_pylist() == list(range(ROWS))
    assert table["score"].to_pylist() == expected["score"].to_pylist()


def until(what: str, is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + GUARD_S
    while not is_so():
        assert time.monotonic() < deadline, f"not within {GUARD_S:g} s: {what}"
        time.sleep(0.05)


def test_a_pool_of_ones_own_scores_what_one_scorer_scores_and_goes(
    cluster: None, source: str, tiny_dir: Path, tmp_path: Path
) -> None:
    from ray import serve

    seen: set[str] = set()

    def look(event: dict[str, Any]) -> None:
        seen.update(serve.status().applications)

    manifest = rescore(config(tiny_dir), source, str(tmp_path / "out"), look)
    check(tmp_path / "out", tiny_dir)
    assert manifest["made_by"]["engine"] == "stub"
    [name] = seen
    assert name.startswith("rescore-")
    assert not serve.status().applications
    until("its replicas end", lambda: not replica_pids(name))


@pytest.mark.parametrize("group", ["never", "always"])
def test_a_running_pool_scores_by_name(
    running: str, source: str, tiny_dir: Path, tmp_path: Path, group: str
) -> None:
    rescore(by_name(running, group=group), source, str(tmp_path / "out"))
    if group == "never":
        check(tmp_path / "out", tiny_dir)
    parts = [pq.read_table(path) for path in (tmp_path / "out").glob("part-*")]
    assert sorted(pa.concat_tables(parts)["n"].to_pylist()) == list(range(ROWS))


def test_a_running_pool_scores_by_address(
    cluster: None, source: str, tiny_dir: Path, tmp_path: Path
) -> None:
    settings = PoolConfig(model=str(tiny_dir), num_cpus=0.1, engine=StubEngineConfig())
    with serving(settings, name="posted", route_prefix="/posted") as url:
        chosen = {"address": url, "rows_per_part": 40, "group": "never"}
        rescore(RescoreConfig.model_validate(chosen), source, str(tmp_path / "out"))
    check(tmp_path / "out", tiny_dir)


def test_lost_tasks_and_replicas_cost_a_retry_and_no_row(
    running: str, source: str, tiny_dir: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def strike(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["rows"] >= 40 * (len(killed) + 1):
            found = own() if len(killed) % 2 else replica_pids(running)
            kill(*found[:1])
            killed.extend(found[:1])

    rescore(by_name(running), source, str(tmp_path / "out"), strike)
    assert len(killed) >= 2
    check(tmp_path / "out", tiny_dir)


@pytest.mark.chaos
@pytest.mark.parametrize("what", ["task", "replica"])
def test_what_is_stopped_is_done_by_another(
    running: str,
    source: str,
    tiny_dir: Path,
    tmp_path: Path,
    figure: Callable[[str], None],
    what: str,
) -> None:
    stopped: list[int] = []

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and not stopped:
            # All tasks: one alone may be between two runs, and then nothing waits for it.
            stopped.extend(own() if what == "task" else replica_pids(running)[:1])
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)

    began = time.monotonic()
    try:
        rescore(by_name(running, in_flight=2), source, str(tmp_path / "out"), stop)
    finally:
        kill(*stopped)
    figure(f"the whole job with a stopped {what} took {time.monotonic() - began:.1f} s")
    # Who goes on is Ray's or a backup's affair; `test_backups` has when there is one.
    assert stopped
    check(tmp_path / "out", tiny_dir)


@pytest.mark.parametrize(
    "how", ["fatal_token", pytest.param("lost_device_token", marks=pytest.mark.chaos)]
)
def test_a_record_that_ends_replicas_is_an_error_of_its_own_row(
    cluster: None, tiny_dir: Path, tmp_path: Path, how: str
) -> None:
    rows = TABLE.to_pylist()
    rows[67]["output"] = "ring \x07"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    [fatal] = load_tokenizer(tiny_dir).encode("\x07")
    settings = {f"engine.{how}": fatal, "rows_per_part": 40}
    out = tmp_path / "out"
    manifest = rescore(config(tiny_dir, **settings), str(tmp_path / "in.parquet"), str(out))
    assert (manifest["rows"], manifest["errors"]) == (ROWS, {"poison": 1})
    parts = [pq.read_table(one) for one in sorted(out.glob("part-*"))]
    scored = pa.concat_tables(parts).to_pylist()
    errors = {row["n"]: row["error"] for row in scored if row["error"]}
    assert list(errors) == [67]
    assert errors[67].startswith("poison: ")
    scorer = Scorer(ScorerConfig.model_validate({"model": str(tiny_dir), "engine.type": "stub"}))
    expected = scorer.score(TABLE.drop_columns(["n"]))["score"].to_pylist()
    assert [row["score"] for row in scored] == [*expected[:67], None, *expected[68:]]


def test_what_a_task_raises_is_raised_here(
    running: str, source: str, tiny_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(PoolError, match="ConfigError: model='no/such' is not a directory"):
        rescore(config(tiny_dir, model="no/such"), source, str(tmp_path / "out"))
    data = bytearray(Path(source).read_bytes())
    data[4:300] = b"\xff" * 296
    Path(source).write_bytes(data)
    with pytest.raises(
        JobStopped, match=r"in\.parquet, rows \d+ to \d+ cannot be read.*on_corrupt=skip"
    ):
        rescore(by_name(running, in_flight=1), source, str(tmp_path / "out"))


def test_a_pool_that_is_deleted_ends_the_run_and_not_the_job(
    cluster: None, source: str, tiny_dir: Path, tmp_path: Path
) -> None:
    from ray import serve

    slow = StubEngineConfig(seconds_per_token=1e-3)
    settings = PoolConfig(model=str(tiny_dir), num_cpus=0.1, engine=slow)

    def delete(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            serve.delete("fleeting", _blocking=False)

    with (
        serving(settings, name="fleeting", route_prefix="/fleeting"),
        pytest.raises(JobStopped, match="run this again"),
    ):
        rescore(by_name("fleeting"), source, str(tmp_path / "out"), delete)
    chosen = settings.model_copy(update={"engine": StubEngineConfig()})
    with serving(chosen, name="fleeting", route_prefix="/fleeting"):
        rescore(by_name("fleeting"), source, str(tmp_path / "out"))
    check(tmp_path / "out", tiny_dir)
