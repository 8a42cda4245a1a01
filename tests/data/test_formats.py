"""Splits cover their input exactly once, whatever its format and however it is cut."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs as pafs

from polar_ray.data import lines as lines_module
from polar_ray.data.columns import Columns
from polar_ray.data.formats import Reader, extent
from polar_ray.data.lines import Lines
from polar_ray.data.rows import Rows, Unreadable, concat
from polar_ray.data.schemas import together
from polar_ray.data.source import Source
from polar_ray.data.splits import Extent, cut
from polar_ray.data.storage import InputFile, list_files

PACKED = ["jsonl.gz", "jsonl.zst", "jsonl.bz2"]
WHOLE = ["json", "json.gz", "csv", "csv.zst"]
LOCAL = pafs.LocalFileSystem()
NUMBERS = pa.table({"n": list(range(100)), "text": [f"row {n}" for n in range(100)]})


def read_all(path: Path, rows: int, order: int = 1) -> list[Rows]:
    [file] = list_files(str(path))
    whole, held = extent(LOCAL, file)
    splits = cut([whole], rows)
    reader = Reader(LOCAL, together([(file.path, held)]))
    found = {split.number: reader.read(split) for split in splits[::order]}
    reader.close()
    return [found[number] for number in sorted(found)]


def write(path: Path, table: pa.Table, chunk: int) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=chunk)
    elif ".json" in path.name and ".jsonl" not in path.name:
        with pa.output_stream(path, compression="detect") as stream:
            stream.write(json.dumps(table.to_pylist(), indent=chunk).encode())
    elif ".csv" in path.name:
        with pa.output_stream(path, compression="detect") as stream:
            pcsv.write_csv(table, stream)
    elif ".jsonl" in path.name:
        with pa.output_stream(path, compression="detect") as stream:
            stream.write("".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode())
    elif path.suffix == ".feather":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=chunk)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=chunk)


@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
@pytest.mark.parametrize("rows", [1, 7, 100, 1000])
@pytest.mark.parametrize("chunk", [3, 10, 100])
@pytest.mark.parametrize("ending", ["parquet", "feather", "arrow", "jsonl", *PACKED, *WHOLE])
def test_every_row_is_read_once_in_order(
    tmp_path: Path, ending: str, chunk: int, rows: int, order: int
) -> None:
    path = tmp_path / f"in.{ending}"
    write(path, NUMBERS, chunk)
    parts = read_all(path, rows, order)
    wanted = (
        NUMBERS.set_column(0, "n", NUMBERS["n"].cast(pa.string())) if "csv" in ending else NUMBERS
    )
    assert pa.concat_tables([part.table for part in parts]).to_pylist() == wanted.to_pylist()
    if "jsonl" not in ending:
        assert max(part.table.num_rows for part in parts) <= rows


@given(
    lines=st.lists(st.text("abc\u5317", max_size=6), max_size=12),
    rows=st.integers(1, 4),
    last=st.sampled_from(["", "\n", "\n\n"]),
    order=st.sampled_from([1, -1]),
    ending=st.sampled_from(["jsonl", "jsonl.gz"]),
    chunk=st.sampled_from([3, 1 << 16]),
)
def test_lines_belong_to_the_split_in_which_they_begin(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], rows: int, last: str, order: int,
    ending: str, chunk: int,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("lines") / f"in.{ending}"
    texts = [json.dumps({"text": line}, ensure_ascii=False) for line in ["first", *lines]]
    with pa.output_stream(path, compression="detect") as stream:
        stream.write(("\n".join(texts) + last).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "CHUNK_BYTES", chunk)
        parts = read_all(path, rows, order)
    found = [row["text"] for part in parts for row in part.table.to_pylist()]
    assert found == ["first", *lines]


@given(
    data=st.lists(st.sampled_from(["a\n", "bb\n", "\n", "c" * 9 + "\n", "dd"]), max_size=9),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    order=st.randoms(use_true_random=False),
    packed=st.booleans(),
    chunk=st.sampled_from([1, 4, 1 << 16]),
)
def test_ranges_in_any_order_give_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, data: list[str], cuts: list[int],
    order: random.Random, packed: bool, chunk: int,
) -> None:  # fmt: skip
    text = "".join(data).encode()
    path = tmp_path_factory.mktemp("lines") / ("in.jsonl.zst" if packed else "in.jsonl")
    with pa.output_stream(path, compression="detect") as stream:
        stream.write(text)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    ranges = list(pairwise(edges))
    order.shuffle(ranges)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "CHUNK_BYTES", chunk)
        lines = Lines(LOCAL, str(path))
        for start, stop in ranges:
            found[start] = [(at, line.strip()) for at, line in lines.read(start, stop)]
        lines.close()
    given = [pair for start in sorted(found) for pair in found[start]]
    assert [line for _, line in given] == [line for line in text.split(b"\n") if line]
    assert all(text[at:].startswith(line) for at, line in given)
    assert all(at == 0 or text[at - 1 : at] == b"\n" for at, _ in given)


@pytest.mark.parametrize("ending", PACKED)
def test_archives_of_several_members_are_one_file(tmp_path: Path, ending: str) -> None:
    # As parallel compressors write them.
    path = tmp_path / f"in.{ending}"
    members = []
    for n in range(9):
        with pa.output_stream(path, compression="detect") as stream:
            stream.write(b'{"n": %d}\n' % n)
        members.append(path.read_bytes())
    path.write_bytes(b"".join(members))
    parts = read_all(path, 2)
    assert [row["n"] for part in parts for row in part.table.to_pylist()] == list(range(9))


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("damage", ["cut off", "turned over", "not packed"])
def test_damaged_archives_are_named_before_anything_is_read(
    tmp_path: Path, ending: str, damage: str
) -> None:
    path = tmp_path / f"in.{ending}"
    texts = random.Random(0).choices(range(10**9), k=2000)
    write(path, pa.table({"text": [str(text) for text in texts]}), 1)
    data = bytearray(path.read_bytes())
    if damage == "cut off":
        data = data[: len(data) // 2]
    elif damage == "turned over":
        data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    else:
        data = bytearray(b'{"text": "a"}\n')
    path.write_bytes(data)
    [file] = list_files(str(path))
    with pytest.raises(Unreadable, match=rf"in\.{ending} cannot be read"):
        extent(LOCAL, file)


@pytest.mark.parametrize("after", [b"", b'{"text": "a"}\n'], ids=["at once", "after a row"])
def test_an_archive_that_unpacks_to_one_endless_line_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bytes
) -> None:
    monkeypatch.setattr(lines_module, "LINE_BYTES", 10 << 20)
    path = tmp_path / "in.jsonl.gz"
    with pa.output_stream(path, compression="gzip") as stream:
        stream.write(after)
        for _ in range(16):
            stream.write(bytes(1 << 20))
    [file] = list_files(str(path))
    with pytest.raises(Unreadable, match=r"in\.jsonl\.gz .*a line is longer than 10 MiB"):
        extent(LOCAL, file)


def test_a_plain_file_with_an_endless_line_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "LINE_BYTES", 1 << 20)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 1000 + bytes(2 << 20))
    with pytest.raises(Unreadable, match=r"in\.jsonl cannot be read: a line is longer than 1 MiB"):
        read_all(path, 100)


def test_a_bomb_is_read_in_bounded_memory(tmp_path: Path) -> None:
    # Rows of 12 splits in some kilobytes, and half a gigabyte of empty lines behind the first row.
    program = """
import sys
from pathlib import Path
from pyarrow import fs
from polar_ray.data import splits as splits_module
from polar_ray.data.storage import list_files
from polar_ray.data.formats import Reader, extent
from polar_ray.data.schemas import together
from polar_ray.data.splits import cut
splits_module.SPLIT_BYTES = 1 << 20
def most_kib():
    # Not getrusage: its figure starts with the parent's.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
[file] = list_files(sys.argv[1])
before = most_kib()
whole, held = extent(fs.LocalFileSystem(), file)
reader = Reader(fs.LocalFileSystem(), together([("in", held)]))
splits = cut([whole], 1000)
rows = reader.read(splits[0]).table.num_rows + reader.read(splits[-1]).table.num_rows
print(whole.length, rows, most_kib() - before >> 10)
"""
    for name, again, pieces in (
        ("rows", b'{"a": 1}' + b" " * 192 + b"\n", 12),
        ("none", b"\n", 512),
    ):
        path = tmp_path / f"{name}.jsonl.zst"
        piece = again * ((1 << 20) // len(again))
        with pa.output_stream(path, compression="zstd") as stream:
            stream.write(b'{"a": 1}\n')
            for _ in range(pieces):
                stream.write(piece)
        assert path.stat().st_size < 1 << 20
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
        )
        length, rows, grown_mib = map(int, done.stdout.split())
        assert length > 11 << 20 if name == "rows" else length < 10
        assert rows > 0
        assert grown_mib < 100, f"{name}: {grown_mib} MiB"


def test_a_line_longer_than_its_split_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"t": "x" * n}) + "\n" for n in [1] * 50 + [300_000, 2]))
    parts = read_all(path, 1)
    lengths = [len(row["t"]) for part in parts for row in part.table.to_pylist()]
    assert lengths == [*[1] * 50, 300_000, 2]


def test_bad_lines_are_rows_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"prompt": "a", "n": 1}\n\r\n{\n5\n{"prompt": 3}\n{"n": 2, "new": 1}\n')
    [rows] = read_all(path, 100)
    assert rows.to_pylist() == [
        {"prompt": prompt, "n": n, "new": new}
        for prompt, n, new in (
            ("a", 1, None), (None, None, None), (None, None, None), (3, None, None), (None, 2, 1)
        )
    ]  # fmt: skip
    assert sorted(rows.errors) == [1, 2]
    for index, at in {1: 26, 2: 28}.items():
        assert rows.errors[index].startswith(f"not_an_object: the line at byte {at} of {path} ")


@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_bad_rows_keep_their_place_in_splits(tmp_path: Path, ending: str, order: int) -> None:
    path = tmp_path / f"in.{ending}"
    good = ['"a"' if n % 3 else "" for n in range(40)]
    if ending == "csv":
        path.write_text("\n".join(["x,y", *(f"{g or 'a'},1" if g else "alone" for g in good)]))
    else:
        items = [f'{{"x": {g}, "y": "1"}}' if g else "5" for g in good]
        path.write_text(f"[{', '.join(items)}]" if ending == "json" else "\n".join(items))
    parts = read_all(path, 7, order)
    rows = concat(parts, parts[0].schema)
    assert rows.table["y"].to_pylist() == ["1" if g else None for g in good]
    assert sorted(rows.errors) == [n for n, g in enumerate(good) if not g]


def test_messages_of_two_kinds_share_a_column(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    contents = ["a", [{"type": "text", "text": "b"}], "c"]
    rows = [{"prompt": [{"role": "user", "content": content}]} for content in contents]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [part] = read_all(path, 100)
    assert part.errors == {}
    table = part.table.append_column("reference", [["r"] * 3]).append_column("output", [["o"] * 3])
    assert [row["prompt"] for row in part.to_pylist()] == [row["prompt"] for row in rows]
    batch = Columns("prompt", "reference", "output").apply(table)
    assert batch.table["prompt"].to_pylist() == ["a", "b", "c"]
    assert batch.errors == {}


def test_a_file_that_changes_after_it_was_looked_at_is_named(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    [file] = list_files(str(path))
    whole, held = extent(LOCAL, file)
    for line, column in (('{"a":.5}', "'a'"), ('{"b": 2}', "'b'")):
        path.write_text('{"a": 1}\n' + line.replace(".5", "0.5") + "\n")
        with pytest.raises(
            Unreadable, match=rf"byte 9 of .*in\.jsonl: column {column} .* not change"
        ):
            Reader(LOCAL, together([(file.path, held)])).read(cut([whole], 100)[0])


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "csv"])
def test_a_byte_order_mark_costs_no_row(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"in.{ending}"
    text = {"json": '[{"a": "1"}]', "csv": "a\n1\n"}.get(ending, '{"a": "1"}\n')
    with pa.output_stream(path, compression="detect") as stream:
        stream.write(b"\xef\xbb\xbf" + text.encode())
    [rows] = read_all(path, 10)
    assert (rows.table.to_pylist(), rows.errors) == ([{"a": "1"}], {})


def test_a_first_line_may_be_as_long_as_any(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"t": "x" * n}) + "\n" for n in (5 << 20, 1)))
    parts = read_all(path, 100)
    assert [len(row["t"]) for part in parts for row in part.table.to_pylist()] == [5 << 20, 1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.parquet", b"PAR1 nonsense PAR1"),
        ("in.parquet", b""),
        ("in.arrow", b"ARROW1 nonsense"),
        ("in.arrow", b"xy"),
        ("in.jsonl", b"\x00\x01\n5\n"),
        ("in.json", b'[{"a": 1}'),
        ("in.json", b'[{"a": 1} {"a": 1}]'),
        ("in.json", b'[{"a": 1}, {"a": ]'),
        ("in.json", b'[{"a": 1}] more'),
        ("in.json", b"[" * 100_000),
        ("in.json", b'[{"a": "\xff"}]'),
        ("in.csv", b""),
        ("in.csv", b"\n\n"),
        ("in.csv", b"a,b,a\n1,2,3\n"),
        ("in.csv", b'a,b\n1,"2\n3,4\n'),
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
    [split] = cut([extent(LOCAL, file)[0]], 100)
    table = Reader(LOCAL, NUMBERS.schema).read(split).table
    assert table.schema == NUMBERS.schema
    assert table["text"].null_count == 100


def test_empty_files_have_no_splits() -> None:
    assert cut([Extent(InputFile("f.parquet", 10, ""), 0)], 10) == []


def test_damage_in_a_row_group_leaves_its_neighbours_whole(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write(path, NUMBERS, 30)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    [file] = list_files(str(path))
    whole, held = extent(LOCAL, file)
    reader, found = Reader(LOCAL, together([(file.path, held)])), []
    for split in cut([whole], 30):
        try:
            found += reader.read(split).table["n"].to_pylist()
        except Unreadable as error:
            assert "rows 30 to 60" in str(error)  # noqa: PT017  (the others are read)
    assert found == [*range(30), *range(60, 100)]


BACKWARDS = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(np.array([0, 1 << 30, 4], np.int32)), pa.py_buffer(b"abcd")]
)
NOT_UTF8 = pa.array([b"good", b"\xff"]).view(pa.string())
NO_KIND = pa.DictionaryArray.from_arrays(pa.array([0, 7]), pa.array(["a"]), safe=False)


@pytest.mark.parametrize("ending", ["arrow", "feather", "parquet"])
@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (BACKWARDS, "column 'meta' is damaged in one of its rows 1 to 2: .*offset"),
        (NO_KIND, "column 'meta' is damaged in one of its rows 1 to 2: .*indices"),
        (NOT_UTF8, "column 'meta' is not UTF-8 in row 2"),
        (
            pa.StructArray.from_arrays([NOT_UTF8], ["a"]),
            "column 'meta' is damaged in one of its rows 1 to 2",
        ),
    ],
    ids=["offsets", "dictionary", "text", "nested text"],
)
def test_foreign_arrow_is_checked_before_it_is_touched(
    tmp_path: Path, ending: str, column: pa.Array, reason: str
) -> None:
    if ending == "parquet" and "UTF-8" not in reason:
        return  # its reader makes such columns itself
    path = tmp_path / f"in.{ending}"
    write(path, pa.table({"n": [1, 2], "meta": column}), 2)
    with pytest.raises(Unreadable, match=rf"in\.{ending}, rows 0 to 2 cannot be read: {reason}"):
        read_all(path, 10)
    with pytest.raises(Unreadable, match=rf"in\.{ending} cannot be read: {reason}"):
        list(Source(str(path)).chunks())


def test_views_of_strings_are_plain_before_they_are_touched(tmp_path: Path) -> None:
    # Arrow crashes where it casts a view with a null row of negative length.
    views = struct.pack("<i12s", 2, b"ab") + struct.pack("<i12s", -5, b"nonsense")
    buffers = [pa.py_buffer(b"\1"), pa.py_buffer(views)]
    column = pa.Array.from_buffers(pa.string_view(), 2, buffers)
    write(tmp_path / "in.feather", pa.table({"text": column}), 2)
    [part] = read_all(tmp_path / "in.feather", 10)
    assert part.table["text"].take(pa.array([1, 0])).to_pylist() == [None, "ab"]


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in.json"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_of_json_has_no_rows(tmp_path: Path, name: str, content: bytes) -> None:
    with pa.output_stream(tmp_path / name, compression="detect") as stream:
        stream.write(content)
    [file] = list_files(str(tmp_path / name))
    whole, held = extent(LOCAL, file)
    assert (whole.length, len(together([(file.path, held)]))) == (0, 0)
