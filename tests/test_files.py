"""Record files in and result files out: rows keep number and order, odd input is named."""

from __future__ import annotations

import io
import json
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import GROUPS

from polar_ray.errors import ConfigError, RecordError
from polar_ray.files import ResultWriter, read_chunks, write_jsonl
from polar_ray.records import SCORE_SCHEMA, check_scores, to_batch
from polar_ray.scorer import Scorer


def write_lines(path: Path, *rows: object) -> str:
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in rows) + b"\n")
    return str(path)


def test_jsonl_rows_come_in_order_and_in_chunks(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", *GROUPS)
    chunks = list(read_chunks(path, rows=5))
    assert [chunk.num_rows for chunk in chunks] == [5, 5, 2]
    assert [row for chunk in chunks for row in chunk.records] == GROUPS


def test_parquet_rows_come_in_order_and_in_chunks(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(GROUPS), tmp_path / "in.parquet")
    chunks = list(read_chunks(str(tmp_path / "in.parquet"), rows=5))
    assert [chunk.num_rows for chunk in chunks] == [5, 5, 2]
    assert pa.concat_tables(chunk.records for chunk in chunks).to_pylist() == GROUPS


def test_extra_columns_are_left_out_and_named(tmp_path: Path) -> None:
    rows = [{**row, "policy": "p", "group": 1, "id": i} for i, row in enumerate(GROUPS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    for path in (str(tmp_path / "in.parquet"), write_lines(tmp_path / "in.jsonl", *rows)):
        [chunk] = read_chunks(path)
        assert chunk.ignored == {"policy", "group"}
        table = to_batch(chunk.records).table
        assert table["id"].to_pylist() == list(range(len(GROUPS)))
        assert table.drop_columns(["id"]).to_pylist() == GROUPS


def test_message_columns_of_parquet_are_flattened(tmp_path: Path, scorer: Scorer) -> None:
    rows = [{k: [{"role": "user", "content": v}] for k, v in row.items()} for row in GROUPS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    [chunk] = read_chunks(str(tmp_path / "in.parquet"))
    assert scorer.score(chunk.records).equals(scorer.score(GROUPS))


def test_a_broken_line_is_an_error_of_its_row(tmp_path: Path, scorer: Scorer) -> None:
    path = tmp_path / "in.jsonl"
    good = json.dumps(GROUPS[0])
    path.write_text(f'{good}\n{{"prompt": \n\n[1]\n"\ud7ff"\n{good}')
    [chunk] = read_chunks(str(path))
    table = check_scores(scorer.score(chunk.records), 5)
    errors = table["error"].to_pylist()
    assert errors[0] is None
    assert errors[4] is None
    assert all(text.startswith("not_an_object: ") for text in errors[1:4])


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("absent.jsonl", None, ConfigError, "no file"),
        ("in.csv", b"prompt\n", ConfigError, "neither .jsonl nor .parquet"),
        ("in.parquet", b"PAR1 but no more", RecordError, "cannot be read as parquet"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    tmp_path: Path, name: str, content: bytes | None, kind: type[Exception], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=message):
        list(read_chunks(str(tmp_path / name)))


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
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
        ResultWriter(str(tmp_path / "out.csv"))
    with pytest.raises(ConfigError, match="no folder"):
        ResultWriter(str(tmp_path / "absent" / "out.jsonl"))


def test_jsonl_is_one_object_per_row(scorer: Scorer) -> None:
    sink = io.BytesIO()
    table = scorer.score(GROUPS)
    write_jsonl(table, sink)
    assert [json.loads(line) for line in sink.getvalue().splitlines()] == table.to_pylist()
