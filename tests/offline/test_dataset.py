"""The callable for Ray Data's pipelines: the same columns and the same scores as a job's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_records import GROUPS

from polar_ray.client import Client
from polar_ray.config import PoolConfig, RescoreConfig, StubEngineConfig
from polar_ray.errors import ConfigError, JobStopped
from polar_ray.offline import rescore
from polar_ray.offline.dataset import ScoreBatches
from polar_ray.pool.local import pool as serving
from polar_ray.records import provenance
from polar_ray.scorer import Scorer

ROWS = 120
TABLE = pa.Table.from_pylist(
    [
        {
            "n": n,
            "question": [{"role": "user", "content": GROUPS[n % 12]["prompt"]}],
            "reward_model": {"ground_truth": GROUPS[n % 12]["reference"]},
            "solution": None if n % 40 == 7 else f"<think>{n}</think>output {n}",
        }
        for n in range(ROWS)
    ]
)
COLUMNS = {
    "prompt": "question",
    "reference": "reward_model.ground_truth",
    "output": "solution",
    "strip_think": True,
    "prefix": "polar_",
}


@pytest.fixture
def settings(tiny_dir: Path) -> dict[str, Any]:
    return {**COLUMNS, "model": str(tiny_dir), "engine.type": "stub"}


@pytest.fixture
def expected(settings: dict[str, Any], tmp_path: Path) -> pa.Table:
    """What a job makes of the same rows."""
    pq.write_table(TABLE, tmp_path / "in.parquet", row_group_size=25)
    config = RescoreConfig.model_validate({**settings, "group": "never"})
    rescore(config, str(tmp_path / "in.parquet"), str(tmp_path / "out"))
    return pq.read_table(tmp_path / "out" / "part-000000.parquet")


def test_a_batch_gets_what_a_job_gives(settings: dict[str, Any], expected: pa.Table) -> None:
    score = ScoreBatches(RescoreConfig.model_validate(settings))
    found = pa.concat_tables([score(TABLE.slice(0, 50)), score(TABLE.slice(50))])
    assert found.equals(expected)
    assert found["polar_error"].null_count == ROWS - 3
    made_by = {k: v for k, v in provenance(expected).items() if k not in ("fingerprint", "report")}
    assert provenance(found) == made_by


def test_batches_without_rows_or_of_nulls_alone_are_batches(settings: dict[str, Any]) -> None:
    score = ScoreBatches(RescoreConfig.model_validate(settings))
    empty = score(TABLE.slice(0, 0))
    assert empty.num_rows == 0
    assert empty.column_names[-1] == "polar_control_text"
    at = TABLE.column_names.index("solution")
    nulls = score(TABLE.slice(0, 2).set_column(at, "solution", pa.nulls(2)))
    assert [text.partition(":")[0] for text in nulls["polar_error"].to_pylist()] == [
        "null_field"
    ] * 2


def test_mistakes_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"num_workers, group: .*compute="):
        ScoreBatches(RescoreConfig.model_validate({**settings, "num_workers": 2, "group": "auto"}))
    score = ScoreBatches(RescoreConfig.model_validate(settings))
    with pytest.raises(ConfigError, match="batch_format='pyarrow'"):
        score({"question": []})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no column 'question'"):
        score(pa.table({"q": ["x"]}))
    with pytest.raises(ConfigError, match="polar_score already"):
        score(TABLE.append_column("polar_score", pa.nulls(ROWS)))


def test_a_pool_that_changes_its_model_ends_the_pipeline(
    monkeypatch: pytest.MonkeyPatch, scorer: Scorer
) -> None:
    class Changing(Client):
        def __init__(self) -> None:
            self.models = iter("aab")

        def score_table(self, records: Any, **_: Any) -> pa.Table:
            made = {"model_digest": next(self.models)}
            return scorer.score(records).replace_schema_metadata(
                {f"polar_ray.{key}": value for key, value in made.items()}
            )

    monkeypatch.setattr("polar_ray.offline.scoring.connect", lambda **_: Changing())
    score = ScoreBatches(RescoreConfig(address="http://x", **COLUMNS))  # type: ignore[arg-type]
    assert score(TABLE.slice(0, 5)).num_rows == 5
    with pytest.raises(JobStopped, match="model changed while the job ran"):
        score(TABLE.slice(5, 5))


@pytest.mark.ray
def test_a_pipeline_scores_with_actors(
    cluster: None, settings: dict[str, Any], expected: pa.Table, tmp_path: Path
) -> None:
    data = pytest.importorskip("ray.data", reason="ray[data] is not installed")
    data.DataContext.get_current().enable_progress_bars = False
    # A small parquet file would be one block, and a pool of two actors a warning.
    source = data.from_arrow([TABLE.slice(at, 40) for at in range(0, ROWS, 40)])
    scored = source.map_batches(
        ScoreBatches,
        fn_constructor_args=(RescoreConfig.model_validate(settings),),
        batch_format="pyarrow",
        batch_size=32,
        compute=data.ActorPoolStrategy(size=2),
        num_cpus=0.1,
    )
    scored.write_parquet(str(tmp_path / "scored"))
    found = pq.read_table(tmp_path / "scored").sort_by("n")
    assert found.equals(expected)
    assert provenance(found)["model_digest"] == provenance(expected)["model_digest"]


@pytest.mark.ray
def test_a_running_pool_scores_batches(cluster: None, expected: pa.Table, tiny_dir: Path) -> None:
    pool = PoolConfig(model=str(tiny_dir), num_cpus=0.1, engine=StubEngineConfig())
    with serving(pool, name="pipeline", route_prefix="/pipeline") as url:
        for way in ({"app_name": "pipeline"}, {"address": url}):
            score = ScoreBatches(RescoreConfig.model_validate({**COLUMNS, **way}))
            found = pa.concat_tables([score(TABLE.slice(0, 50)), score(TABLE.slice(50))])
            assert found.equals(expected)
