"""Who does the work: actors of a cluster, lost ones included, and pools over their client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import GROUPS
from processes import kill, own

from polar_ray.client import Client
from polar_ray.config import PoolConfig, RescoreConfig, ScorerConfig, StubEngineConfig
from polar_ray.encoding import load_tokenizer
from polar_ray.errors import (
    ConfigError,
    JobStopped,
    ModelChanged,
    Overloaded,
    PoolError,
    RecordError,
    ReplicaLost,
    TooLarge,
)
from polar_ray.offline import rescore
from polar_ray.offline.work import PROBE, RunningPool
from polar_ray.pool.local import pool as serving
from polar_ray.records import to_batch
from polar_ray.scorer import Scorer

ROWS = 200
TABLE = pa.Table.from_pylist(
    [{**GROUPS[n % 12], "output": f"output {n}", "n": n} for n in range(ROWS)]
)


@pytest.fixture
def source(tmp_path: Path) -> str:
    pq.write_table(TABLE, tmp_path / "in.parquet", row_group_size=50)
    return str(tmp_path / "in.parquet")


def config(tiny_dir: Path, **changes: Any) -> RescoreConfig:
    given = {"model": str(tiny_dir), "engine.type": "stub", "rows_per_part": 10, "group": "never"}
    return RescoreConfig.model_validate({**given, "num_workers": 2, "num_cpus": 0.1, **changes})


def check(out: Path, tiny_dir: Path) -> None:
    table = pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("part-*"))])
    scorer = Scorer(ScorerConfig.model_validate({"model": str(tiny_dir), "engine.type": "stub"}))
    expected = scorer.score(TABLE.drop_columns(["n"]))
    assert table["n"].to_pylist() == list(range(ROWS))
    assert table["score"].to_pylist() == expected["score"].to_pylist()


@pytest.mark.ray
def test_actors_score_what_one_scorer_scores(
    cluster: None, source: str, tiny_dir: Path, tmp_path: Path
) -> None:
    rescore(config(tiny_dir), source, str(tmp_path / "out"))
    check(tmp_path / "out", tiny_dir)


@pytest.mark.ray
def test_lost_actors_cost_a_retry_and_no_row(
    cluster: None, source: str, tiny_dir: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def strike(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["rows"] >= 40 * (len(killed) + 1):
            ours = [pid for pid in own() if pid not in killed]
            kill(*ours[:1])
            killed.extend(ours[:1])

    # Slow enough that work is lost with the worker.
    slow = config(tiny_dir, **{"engine.seconds_per_token": 2e-5})
    rescore(slow, source, str(tmp_path / "out"), strike)
    assert killed
    check(tmp_path / "out", tiny_dir)


def test_a_lost_device_stops_the_job_and_the_same_command_goes_on(
    source: str, tiny_dir: Path, tmp_path: Path
) -> None:
    rows = TABLE.to_pylist()
    rows[67]["output"] = "ring \x07"
    pq.write_table(pa.Table.from_pylist(rows), source, row_group_size=50)
    [lost] = load_tokenizer(tiny_dir).encode("\x07")
    settings = {"num_workers": 0, "engine.lost_device_token": lost, "in_flight": 1}
    chosen = config(tiny_dir, **settings)
    for _ in range(2):
        with pytest.raises(JobStopped, match=r"device is lost.*run this again"):
            rescore(chosen, source, str(tmp_path / "out"))
        parts = [pq.read_table(one) for one in sorted((tmp_path / "out").glob("part-*"))]
        scored = pa.concat_tables(parts)
        assert scored["n"].to_pylist() == list(range(60)), "the units before it, and none after"
        assert scored["error"].null_count == 60


@pytest.mark.ray
@pytest.mark.parametrize("how", ["fatal_token", "lost_device_token"])
def test_a_record_that_ends_workers_is_an_error_of_its_own_row(
    cluster: None, tiny_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    rows = TABLE.to_pylist()
    rows[67]["output"] = "ring \x07"
    path = tmp_path / "in.jsonl"  # a unit's rows are not known before it is read
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [fatal] = load_tokenizer(tiny_dir).encode("\x07")
    settings = {f"engine.{how}": fatal, "rows_per_part": 40}
    manifest = rescore(config(tiny_dir, **settings), str(path), str(tmp_path / "out"))
    assert manifest["rows"] == ROWS
    assert manifest["errors"] == {"poison": 1}
    parts = [pq.read_table(one) for one in sorted((tmp_path / "out").glob("part-*"))]
    scored = pa.concat_tables(parts).to_pylist()
    assert [row["n"] for row in scored] == list(range(ROWS))
    errors = {row["n"]: row["error"] for row in scored if row["error"]}
    assert list(errors) == [67]
    assert errors[67].startswith("poison: ")
    scorer = Scorer(ScorerConfig.model_validate({"model": str(tiny_dir), "engine.type": "stub"}))
    expected = scorer.score(TABLE.drop_columns(["n"]))["score"].to_pylist()
    assert [row["score"] for row in scored] == [*expected[:67], None, *expected[68:]]
    deaths = [one for one in caplog.records if one.message.startswith("a worker was lost")]
    assert len(deaths) == 4, "two of the whole unit, one of three rows, one of the record alone"


@pytest.mark.ray
def test_what_a_worker_raises_is_raised_here(
    cluster: None, source: str, tiny_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="'no/such' is not a directory"):
        rescore(config(tiny_dir, model="no/such"), source, str(tmp_path / "out"))
    data = bytearray(Path(source).read_bytes())
    data[4:300] = b"\xff" * 296
    Path(source).write_bytes(data)
    with pytest.raises(JobStopped, match=r"in\.parquet, rows 0 to 10"):
        rescore(config(tiny_dir, in_flight=1, num_workers=1), source, str(tmp_path / "out"))


@pytest.mark.ray
def test_a_running_pool_scores_by_either_way_in(
    cluster: None, source: str, tiny_dir: Path, tmp_path: Path
) -> None:
    settings = PoolConfig(model=str(tiny_dir), num_cpus=0.1, engine=StubEngineConfig())
    with serving(settings, name="rescored", route_prefix="/rescored") as url:
        for number, way in enumerate([{"app_name": "rescored"}, {"address": url}]):
            chosen = RescoreConfig.model_validate({"rows_per_part": 40, "group": "never", **way})
            rescore(chosen, source, str(tmp_path / str(number)))
            check(tmp_path / str(number), tiny_dir)


class FakePool:
    """A transport that fails as it is told, and scores otherwise."""

    def __init__(self, scorer: Scorer, failures: list[Exception], most_rows: int = 1000) -> None:
        self.scorer, self.failures, self.most_rows = scorer, failures, most_rows

    def carries(self, records: Any) -> bool:
        return False

    def send(self, batch: pa.Table, timeout_s: float, priority: str) -> pa.Table:
        if batch.num_rows > self.most_rows:
            raise TooLarge(f"{batch.num_rows} rows")
        if self.failures:
            raise self.failures.pop()
        return self.scorer.score(batch)

    async def send_async(self, batch: pa.Table, timeout_s: float, priority: str) -> pa.Table:
        raise NotImplementedError

    def why_waiting(self) -> str:
        return "it is a fake"

    def close(self) -> None: ...


def pool(transport: FakePool) -> RunningPool:
    return RunningPool(Client(transport))


def test_what_may_pass_is_tried_again_and_the_rest_is_not(scorer: Scorer) -> None:
    transport = FakePool(scorer, [])
    running = pool(transport)
    assert running.made_by == scorer.provenance
    transport.failures = [ReplicaLost("x"), Overloaded("full", 0.0)]
    assert running.score(PROBE).num_rows == 1
    for error in (RecordError("x"), PoolError("gone")):
        transport.failures = [error]
        with pytest.raises(type(error)):
            running.score(PROBE)
        assert not transport.failures


def test_what_is_too_large_is_halved(scorer: Scorer) -> None:
    running = pool(FakePool(scorer, [], most_rows=3))
    request = to_batch(GROUPS).table
    expected = np.array(scorer.score(request)["score"])
    np.testing.assert_allclose(running.score(request)["score"], expected, atol=1e-5)
    with pytest.raises(TooLarge):
        pool(FakePool(scorer, [], most_rows=0))


def test_two_halves_are_of_one_model(scorer: Scorer, tiny_dir: Path) -> None:
    class Updated(FakePool):
        def send(self, batch: pa.Table, timeout_s: float, priority: str) -> pa.Table:
            result = super().send(batch, timeout_s, priority)
            self.scorer = stub
            return result

    stub = Scorer(ScorerConfig.model_validate({"model": str(tiny_dir), "engine.type": "stub"}))
    running = pool(FakePool(scorer, [], most_rows=6))
    running.client = Client(Updated(scorer, [], most_rows=6))
    with pytest.raises(ModelChanged, match="between two halves of 12 rows"):
        running.score(to_batch(GROUPS).table)


def test_a_pool_that_changes_its_model_ends_the_job(
    monkeypatch: pytest.MonkeyPatch, source: str, tmp_path: Path, scorer: Scorer, tiny_dir: Path
) -> None:
    transport = FakePool(scorer, [])
    monkeypatch.setattr("polar_ray.client.connect", lambda **_: Client(transport))
    stub = Scorer(ScorerConfig.model_validate({"model": str(tiny_dir), "engine.type": "stub"}))

    def swap(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            transport.scorer = stub

    settings = {"address": "http://x", "rows_per_part": 10, "in_flight": 1, "group": "never"}
    chosen = RescoreConfig.model_validate(settings)
    with pytest.raises(JobStopped, match="model changed while the job ran"):
        rescore(chosen, source, str(tmp_path / "out"), swap)
    assert len(list((tmp_path / "out").glob("part-*"))) == 1
    transport.scorer = scorer
    assert rescore(chosen, source, str(tmp_path / "out"))["rows"] == ROWS


def test_a_pool_with_other_limits_is_another_job(
    monkeypatch: pytest.MonkeyPatch, source: str, tmp_path: Path, scorer: Scorer, tiny_dir: Path
) -> None:
    settings = {"model": str(tiny_dir), "max_tokens": 256, "encoding.max_response_length": 7}
    shorter = Scorer(ScorerConfig.model_validate(settings))
    assert {**shorter.provenance, "encoding": ""} == {**scorer.provenance, "encoding": ""}
    chosen = RescoreConfig.model_validate({"address": "http://x", "group": "never"})
    transport = FakePool(scorer, [])
    monkeypatch.setattr("polar_ray.client.connect", lambda **_: Client(transport))
    rescore(chosen, source, str(tmp_path / "out"))
    transport.scorer = shorter
    with pytest.raises(ConfigError, match=r"made_by\.encoding was .* response 512, .* response 7,"):
        rescore(chosen, source, str(tmp_path / "out"))
