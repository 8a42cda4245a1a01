"""Units cover their input exactly once, whatever its format and however it is cut."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs as pafs

from polar_ray.offline.places import InputFile, list_files
from polar_ray.offline.read import Reader, Rows, Unreadable, extent, rows_of
from polar_ray.offline.units import cut, cut_buckets

LOCAL = pafs.LocalFileSystem()
NUMBERS = pa.table({"n": list(range(100)), "text": [f"row {n}" for n in range(100)]})


def read_all(path: Path, rows: int, order: int = 1) -> list[Rows]:
    [file] = list_files(str(path))
    whole, schema = extent(LOCAL, file)
    units = cut([whole], rows)
    reader = Reader(LOCAL, schema)
    found = {unit.number: reader.read(unit) for unit in units[::order]}
    reader.close()
    return [found[number] for number in sorted(found)]


def write(path: Path, table: pa.Table, chunk: int) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=chunk)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif path.suffix == ".feather":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=chunk)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=chunk)


@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
@pytest.mark.parametrize("rows", [1, 7, 100, 1000])
@pytest.mark.parametrize("chunk", [3, 10, 100])
@pytest.mark.parametrize("ending", ["parquet", "feather", "arrow", "jsonl"])
def test_every_row_is_read_once_in_order(
    tmp_path: Path, ending: str, chunk: int, rows: int, order: int
) -> None:
    path = tmp_path / f"in.{ending}"
    write(path, NUMBERS, chunk)
    parts = read_all(path, rows, order)
    assert pa.concat_tables([part.table for part in parts]).to_pylist() == NUMBERS.to_pylist()
    if ending != "jsonl":
        assert max(part.table.num_rows for part in parts) <= rows


@given(
    lines=st.lists(st.text("abc\u5317", max_size=6), max_size=12),
    rows=st.integers(1, 4),
    last=st.sampled_from(["", "\n", "\n\n"]),
)
def test_lines_belong_to_the_unit_in_which_they_begin(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], rows: int, last: str
) -> None:
    path = tmp_path_factory.mktemp("lines") / "in.jsonl"
    texts = [json.dumps({"text": line}, ensure_ascii=False) for line in ["first", *lines]]
    path.write_text("\n".join(texts) + last, encoding="utf-8")
    found = [row["text"] for part in read_all(path, rows) for row in part.table.to_pylist()]
    assert found == ["first", *lines]


def test_a_line_longer_than_its_unit_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"t": "x" * n}) + "\n" for n in [1] * 50 + [300_000, 2]))
    parts = read_all(path, 1)
    lengths = [len(row["t"]) for part in parts for row in part.table.to_pylist()]
    assert lengths == [*[1] * 50, 300_000, 2]


def test_bad_lines_are_rows_with_a_reason() -> None:
    schema = pa.schema([("prompt", pa.string()), ("n", pa.int64())])
    lines = [b'{"prompt": "a", "n": 1}', b"{", b"5", b'{"prompt": 3}', b'{"n": 2, "new": 1}']
    rows = rows_of(lines, schema, "f")
    assert rows.table.num_rows == 5
    assert rows.table["n"].to_pylist() == [1, None, None, None, 2]
    assert sorted(rows.errors) == [1, 2, 3]
    assert all(reason.startswith("not_an_object: ") for reason in rows.errors.values())
    assert rows.left_out == {"new"}


def test_columns_of_jsonl_come_from_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": null, "b": 1}\nnonsense\n{"c": {"d": [1]}, "b": 2.5}\n')
    [file] = list_files(str(path))
    _, schema = extent(LOCAL, file)
    assert schema.field("a").type == pa.string()
    assert schema.field("b").type == pa.float64()
    assert pa.types.is_struct(schema.field("c").type)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.parquet", b"PAR1 nonsense PAR1"),
        ("in.parquet", b""),
        ("in.arrow", b"ARROW1 nonsense"),
        ("in.arrow", b"xy"),
        ("in.jsonl", b"\x00\x01\n5\n"),
        ("in.jsonl", b""),
    ],
)
def test_what_is_not_what_it_says_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    [file] = list_files(str(tmp_path / name))
    with pytest.raises(Unreadable, match=name):
        extent(LOCAL, file)


def test_damage_behind_a_good_footer_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write(path, NUMBERS, 50)
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(data)
    with pytest.raises(Unreadable, match=r"in\.parquet, rows 0 to 50"):
        read_all(path, 50)


def test_files_that_lack_a_column_have_nulls_there(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write(path, NUMBERS.select(["n"]), 50)
    [file] = list_files(str(path))
    [unit] = cut([extent(LOCAL, file)[0]], 100)
    table = Reader(LOCAL, NUMBERS.schema).read(unit).table
    assert table.schema == NUMBERS.schema
    assert table["text"].null_count == 100


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(1, 20))
def test_buckets_are_cut_exactly(sizes: list[int], rows: int) -> None:
    units = cut_buckets(sizes, rows, 1000)
    assert [unit.number for unit in units] == list(range(len(units)))
    for bucket, size in enumerate(sizes):
        inside = [(u.start, u.stop) for u in units if u.bucket == bucket]
        assert [row for start, stop in inside for row in range(start, stop)] == list(range(size))


def test_empty_files_have_no_units() -> None:
    whole, _ = (InputFile("f.parquet", 10, ""), None)
    from polar_ray.offline.units import Extent

    assert cut([Extent(whole, 0)], 10) == []
