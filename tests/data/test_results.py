"""Result files: whole or not at all, in every format that is written."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from sample_records import GROUPS

from polar_ray.data.results import ResultWriter, check_columns, with_scores, write_jsonl
from polar_ray.errors import ConfigError, RecordError
from polar_ray.records import SCORE_SCHEMA
from polar_ray.scorer import Scorer


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv", "arrow"])
def test_results_are_written_whole_or_not_at_all(
    tmp_path: Path, scorer: Scorer, ending: str
) -> None:
    path = tmp_path / f"out.{ending}"
    table = scorer.score(GROUPS)
    with ResultWriter(str(path)) as writer:
        writer.write(table.slice(0, 7))
        assert not path.exists()
        writer.write(table.slice(7))
    if ending == "parquet":
        written = pq.read_table(path)
        assert written.equals(table)
        assert written.schema.metadata == table.schema.metadata
    elif ending == "arrow":
        assert pa.ipc.open_file(path).read_all().equals(table, check_metadata=True)
    elif ending == "csv":
        assert pcsv.read_csv(path)["score"].cast(pa.float32()).equals(table["score"])
    else:
        assert [json.loads(line) for line in path.read_text().splitlines()] == table.to_pylist()

    def fail() -> None:
        with ResultWriter(str(path)) as again:
            again.write(table.slice(0, 1))
            raise RuntimeError("stopped")

    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_no_rows_make_an_empty_file(tmp_path: Path) -> None:
    with ResultWriter(str(tmp_path / "out.parquet")):
        pass
    assert pq.read_table(tmp_path / "out.parquet").schema.equals(SCORE_SCHEMA)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must end in"):
        ResultWriter(str(tmp_path / "out.txt"))
    with pytest.raises(ConfigError, match="no folder"):
        ResultWriter(str(tmp_path / "absent" / "out.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        ResultWriter(str(tmp_path / "folder.jsonl"))
    long = "x" * 240 + ".jsonl"  # that of the partial file is too long
    with pytest.raises(ConfigError, match=r"--output '.*/x{240}\.jsonl': File name too long$"):
        ResultWriter(str(tmp_path / long)).__enter__()


def test_what_a_format_cannot_hold_is_named(tmp_path: Path) -> None:
    def write(name: str, column: pa.Array) -> None:
        with ResultWriter(str(tmp_path / name)) as writer:
            writer.write(pa.table({"a": column}))

    with pytest.raises(
        ConfigError,
        match=r"column 'a' is list<.*>, which a \.csv file cannot hold .* or write another",
    ):
        write("out.csv", pa.array([["x"]]))
    with pytest.raises(RecordError, match=r"JSON lines cannot hold a row: .*; write \.parquet"):
        write("out.jsonl", pa.array([b"x"]))
    assert list(tmp_path.iterdir()) == []


def test_scores_stand_behind_other_columns_under_names_of_their_own(scorer: Scorer) -> None:
    scores = scorer.score(GROUPS[:2])
    rows = with_scores(pa.table({"score": [1, 2]}), scores, "polar_")
    assert rows.column_names == ["score", *(f"polar_{name}" for name in SCORE_SCHEMA.names)]
    check_columns(["score"], "polar_")
    with pytest.raises(ConfigError, match=r"score already; .* prefix=NAME_"):
        check_columns(["a", "score"], "")


def test_jsonl_is_one_object_per_row(scorer: Scorer) -> None:
    sink = io.BytesIO()
    table = scorer.score(GROUPS)
    write_jsonl(table.to_pylist(), sink)
    assert [json.loads(line) for line in sink.getvalue().splitlines()] == table.to_pylist()
