"""Who scores: a pool through its client, which may fail, be full, or get another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_records import GROUPS

from polar_ray.client import Client
from polar_ray.config import RescoreConfig, ScorerConfig
from polar_ray.encoding import load_tokenizer
from polar_ray.errors import (
    ConfigError,
    DeadlineExceeded,
    JobStopped,
    ModelChanged,
    Overloaded,
    PoolError,
    RecordError,
    ReplicaLost,
    TooLarge,
    Unavailable,
)
from polar_ray.offline import rescore, scoring
from polar_ray.offline.scoring import PoolScorer, made_by
from polar_ray.records import to_batch
from polar_ray.scorer import Scorer

ROWS = 200
TABLE = pa.Table.from_pylist(
    [{**GROUPS[n % 12], "output": f"output {n}", "n": n} for n in range(ROWS)]
)
REQUEST = to_batch(GROUPS).table


@pytest.fixture
def source(tmp_path: Path) -> str:
    pq.write_table(TABLE, tmp_path / "in.parquet", row_group_size=50)
    return str(tmp_path / "in.parquet")


def parts(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("part-*"))])


def test_a_lost_device_stops_the_job_and_the_same_command_goes_on(
    source: str, tiny_dir: Path, tmp_path: Path
) -> None:
    rows = TABLE.to_pylist()
    rows[67]["output"] = "ring \x07"
    pq.write_table(pa.Table.from_pylist(rows), source, row_group_size=50)
    [lost] = load_tokenizer(tiny_dir).encode("\x07")
    engine = {"engine.type": "stub", "engine.lost_device_token": lost}
    settings = {"model": str(tiny_dir), **engine, "rows_per_part": 10, "in_flight": 1}
    chosen = RescoreConfig.model_validate({**settings, "group": "never"})
    for _ in range(2):
        with pytest.raises(JobStopped, match=r"device is lost.*run this again"):
            rescore(chosen, source, str(tmp_path / "out"))
        scored = parts(tmp_path / "out")
        assert scored["n"].to_pylist() == list(range(60)), "the splits before it, and none after"
        assert scored["error"].null_count == 60


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


def pool(transport: FakePool, patience_s: float = 60) -> PoolScorer:
    return PoolScorer(Client(transport, timeout_s=2), patience_s)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between tries, which take no time here."""
    seen: list[float] = []

    class Clock:
        @staticmethod
        def sleep(seconds: float) -> None:
            seen.append(seconds)

        @staticmethod
        def monotonic() -> float:
            return sum(seen)

    monkeypatch.setattr(scoring, "time", Clock)
    return seen


def test_what_may_pass_is_tried_again_and_the_rest_is_not(
    scorer: Scorer, waits: list[float]
) -> None:
    transport = FakePool(scorer, [])
    running = pool(transport)
    assert made_by(running) == scorer.provenance
    transport.failures = [ReplicaLost("x"), Overloaded("full", 0.0)]
    assert running.score(REQUEST).num_rows == 12
    assert waits == []
    for error in (RecordError("x"), PoolError("gone")):
        transport.failures = [error]
        with pytest.raises(type(error)):
            running.score(REQUEST)
        assert not transport.failures


def test_a_pool_that_restarts_is_waited_for(scorer: Scorer, waits: list[float]) -> None:
    late = [DeadlineExceeded("no replica"), Overloaded("full", 1e9), DeadlineExceeded("loading")]
    transport = FakePool(scorer, list(late))
    assert pool(transport).score(REQUEST).num_rows == 12
    assert len(waits) == 3
    assert not transport.failures


def test_patience_has_an_end_which_says_why(scorer: Scorer, waits: list[float]) -> None:
    transport = FakePool(scorer, [DeadlineExceeded("the pool has no replica")] * 1000)
    with pytest.raises(
        JobStopped, match=r"12 rows for 60 s \(patience_s\): the pool has no replica"
    ):
        pool(transport).score(REQUEST)
    assert sum(waits) == pytest.approx(60, abs=scoring.PAUSE_S)
    transport.failures = [Unavailable("nobody answers")] * 1000
    with pytest.raises(JobStopped, match="nobody answers"):
        pool(transport, patience_s=1).score(REQUEST)


def test_nobody_waits_for_a_pool_once_the_job_has_ended(
    scorer: Scorer, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = FakePool(scorer, [DeadlineExceeded("the pool has no replica")] * 1000)
    running = pool(transport)
    monkeypatch.setattr(scoring.time, "sleep", lambda seconds: running.close())
    with pytest.raises(JobStopped, match="was stopped"):
        running.score(REQUEST)
    assert len(transport.failures) == 999


def test_what_is_too_large_is_halved(scorer: Scorer) -> None:
    running = pool(FakePool(scorer, [], most_rows=3))
    expected = np.array(scorer.score(REQUEST)["score"])
    np.testing.assert_allclose(running.score(REQUEST)["score"], expected, atol=1e-5)
    with pytest.raises(TooLarge):
        pool(FakePool(scorer, [], most_rows=0)).score(REQUEST)


def test_two_halves_are_of_one_model(scorer: Scorer, tiny_dir: Path) -> None:
    class Updated(FakePool):
        def send(self, batch: pa.Table, timeout_s: float, priority: str) -> pa.Table:
            result = super().send(batch, timeout_s, priority)
            self.scorer = stub
            return result

    stub = Scorer(ScorerConfig.model_validate({"model": str(tiny_dir), "engine.type": "stub"}))
    with pytest.raises(ModelChanged, match="between two halves of 12 rows"):
        pool(Updated(scorer, [], most_rows=6)).score(REQUEST)


def test_a_pool_that_changes_its_model_ends_the_job(
    monkeypatch: pytest.MonkeyPatch, source: str, tmp_path: Path, scorer: Scorer, tiny_dir: Path
) -> None:
    transport = FakePool(scorer, [])
    monkeypatch.setattr("polar_ray.offline.scoring.connect", lambda **_: Client(transport))
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
    monkeypatch.setattr("polar_ray.offline.scoring.connect", lambda **_: Client(transport))
    rescore(chosen, source, str(tmp_path / "out"))
    transport.scorer = shorter
    with pytest.raises(
        ConfigError, match=r"another job: encoding was .* response 512, .* response 7,"
    ):
        rescore(chosen, source, str(tmp_path / "out"))
