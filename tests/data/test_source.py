"""Whatever records come in, and however warty, every row is read once, in order, or named."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from sample_records import GROUPS

from polar_ray.data import csv_text, json_text
from polar_ray.data import source as source_module
from polar_ray.data.columns import Columns
from polar_ray.data.rows import Objects, Rows, Unreadable
from polar_ray.data.source import Source, load, sliced
from polar_ray.errors import ConfigError, RecordError

COLUMNS = Columns("prompt", "reference", "output")
TABLE = pa.Table.from_pylist(GROUPS)
BOM = b"\xef\xbb\xbf"
GOOD = b'{"prompt": "p", "reference": "r", "output": "o"}'
RECORD = {"prompt": "p", "reference": "r", "output": "o"}


def encoded(kind: str) -> bytes:
    """The examples in a format."""
    if kind == "jsonl":
        return b"".join(json.dumps(row).encode() + b"\n" for row in GROUPS)
    if kind == "json":
        return json.dumps(GROUPS, indent=1).encode()
    sink = io.BytesIO()
    if kind == "csv":
        pcsv.write_csv(TABLE, sink)
    elif kind == "parquet":
        pq.write_table(TABLE, sink, row_group_size=5)
    else:
        new = pa.ipc.new_file if kind == "feather" else pa.ipc.new_stream
        with new(sink, TABLE.schema) as writer:
            writer.write_table(TABLE, max_chunksize=5)
    return sink.getvalue()


def packed(data: bytes, how: str) -> bytes:
    return bytes(pa.Codec(how).compress(data)) if how == "zstd" else gzip.compress(data)


def records(source: Source) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """All requests of a source, and the errors of its rows."""
    rows: list[dict[str, Any]] = []
    errors: dict[int, str] = {}
    for chunk in source.chunks():
        batch = COLUMNS.apply(chunk)
        errors |= {len(rows) + i: text for i, text in batch.errors.items()}
        rows += batch.table.to_pylist()
    return rows, errors


def read(path: Path, data: bytes) -> tuple[list[dict[str, Any]], dict[int, str]]:
    path.write_bytes(data)
    return records(Source(str(path)))


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Any:
    def give(data: bytes) -> None:
        class Pipe(io.RawIOBase):
            """Gives a few bytes at a time, as pipes do."""

            at = 0

            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                piece = data[self.at : self.at + min(7, len(buffer))]
                buffer[: len(piece)] = piece
                self.at += len(piece)
                return len(piece)

        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pipe())))

    return give


@pytest.mark.parametrize(
    "ending", ["jsonl", "ndjson", "json", "csv", "parquet", "arrow", "feather"]
)
def test_every_format_gives_the_same_records(tmp_path: Path, ending: str) -> None:
    kind = {"ndjson": "jsonl"}.get(ending, ending)
    assert read(tmp_path / f"in.{ending}", encoded(kind)) == (GROUPS, {})


@pytest.mark.parametrize("ending", ["jsonl.gz", "csv.zst", "json.gz", "csv.gz"])
def test_packed_text_is_unpacked(tmp_path: Path, ending: str) -> None:
    kind, _, _how = ending.partition(".")
    path = tmp_path / f"in.{ending}"
    with pa.output_stream(path, compression="detect") as stream:
        stream.write(encoded(kind))
    assert records(Source(str(path))) == (GROUPS, {})


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "arrow", "feather"])
@pytest.mark.parametrize("how", ["plain", "gzip", "told"])
def test_stdin_tells_its_format_by_its_beginning(stdin: Any, kind: str, how: str) -> None:
    data = encoded(kind)
    stdin(packed(data, how) if how == "gzip" else data)
    told = {"feather": "arrow"}.get(kind, kind) if how == "told" else None
    source = Source("-", format=told)
    assert records(source) == (GROUPS, {})


def test_a_named_pipe_is_read_as_stdin_is(tmp_path: Path) -> None:
    for kind in ("jsonl", "parquet"):
        path = tmp_path / kind
        os.mkfifo(path)
        with ThreadPoolExecutor() as threads:
            writing = threads.submit(path.write_bytes, encoded(kind))
            assert records(Source(str(path))) == (GROUPS, {})
            writing.result()


def test_tables_between_tabs_may_be_called_so(tmp_path: Path) -> None:
    text = "prompt\treference\toutput\np,1\tr\to\n"
    assert read(tmp_path / "in.tsv", text.encode()) == ([{**RECORD, "prompt": "p,1"}], {})


def test_stdin_can_be_read_twice_where_its_columns_are_asked_for(stdin: Any) -> None:
    stdin(encoded("jsonl"))
    source = Source("-")
    assert source.schema().names == ["prompt", "reference", "output"]
    assert records(source) == (GROUPS, {})


def test_bad_lines_on_stdin_are_named(stdin: Any) -> None:
    stdin(b"5\n" + GOOD + b"\n{,\n")
    rows, errors = records(Source("-"))
    assert rows[1] == RECORD
    assert "line 1 of stdin is int" in errors[0]
    assert "line 3 of stdin is not JSON" in errors[2]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_byte_order_mark_and_windows_lines_are_no_error(tmp_path: Path, kind: str) -> None:
    data = BOM + encoded(kind).replace(b"\n", b"\r\n")
    rows, errors = read(tmp_path / f"in.{kind}", data)
    assert errors == {}
    assert [{k: v.replace("\r\n", "\n") for k, v in row.items()} for row in rows] == GROUPS


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "line 3 of {path} is not JSON"),
        (GOOD + b",", "line 3 of {path} is not JSON"),
        (b'"text"', "line 3 of {path} is str, not an object"),
        (b"[1]", "line 3 of {path} is list, not an object"),
        (GOOD.replace(b"o", b"\xff"), "line 3 of {path} is not JSON"),
        (GOOD.replace(b'"o"', b'"\\ud800"'), "line 3 of {path} is not JSON"),
        (GOOD.replace(b'"o"', b"NaN"), "output is float"),
        (GOOD.replace(b'"o"', b"NaN\xff"), "its byte 48 is no UTF-8"),
        (GOOD.replace(b'"o"', b"no"), "at its character 45"),
        (GOOD.replace(b'"o"', b"1.5"), "output is float"),
    ],
    ids=repr,
)
def test_a_bad_line_is_an_error_of_its_row(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "in.jsonl"
    rows, errors = read(path, GOOD + b"\n \n" + line + b"\n" + GOOD)
    assert rows[0] == rows[2] == RECORD
    assert list(errors) == [1]
    assert reason.format(path=path) in errors[1]


def test_items_of_an_array_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    rows, errors = read(path, b" [" + GOOD + b', 5, "a, ]", ' + GOOD + b", \n ] \n")
    assert rows[0] == rows[3] == RECORD
    assert f"item 2 of {path} is int" in errors[1]
    assert f"item 3 of {path} is str" in errors[2]
    assert read(path, b"[]") == ([], {})
    assert read(path, b"") == ([], {})
    assert read(path, GOOD + b"\n" + GOOD) == ([RECORD] * 2, {}), "lines, whatever it is called"


def test_an_array_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 2, 5):
        monkeypatch.setattr(json_text, "PIECE_BYTES", size)
        assert read(tmp_path / "in.json", encoded("json")) == (GROUPS, {})


def test_fields_of_csv_hold_what_is_quoted(tmp_path: Path) -> None:
    text = 'output,prompt,reference\r\n"a ""b"",\n\nc",p,r\r\n\r\n"","p",\n5" disk,p,r\n'
    rows, errors = read(tmp_path / "in.csv", text.encode())
    assert errors == {}
    assert [row["output"] for row in rows] == ['a "b",\n\nc', "", '5" disk']
    assert [row["reference"] for row in rows] == ["r", None, "r"], "nothing is not the same as ''"


@pytest.mark.parametrize("sign", [";", "\t"])
def test_the_header_of_csv_tells_its_delimiter(tmp_path: Path, stdin: Any, sign: str) -> None:
    lines = [["prompt", '"a,b,c,d"', "reference", "output"], ["p", "1,5", "r", "o"]]
    data = "\n".join(map(sign.join, lines)).encode()
    row = {"prompt": "p", "a,b,c,d": "1,5", "reference": "r", "output": "o"}
    path = tmp_path / "in.csv"
    path.write_bytes(data)
    assert load(Source(str(path)), row).to_pylist() == [row]
    stdin(data)
    assert load(Source("-"), row).to_pylist() == [row]


def test_a_place_in_an_array_is_its_item(tmp_path: Path) -> None:
    data = b"[\n" + GOOD + b",\n" + GOOD.replace(b'"o"', b'\n"\\ud800"') + b"]"
    errors = read(tmp_path / "in.json", data)[1]
    assert "item 2 of " in errors[1]
    assert "line" not in errors[1]
    with pytest.raises(Unreadable, match="its item 2 is cut off") as caught:
        read(tmp_path / "in.json", data[:-9])
    assert "line" not in str(caught.value)


def test_bad_rows_of_csv_keep_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.csv"
    bad = {0: b"p,r", 1: b"p,r,o,more", 2: b"p,r,\xff"}
    lines = [b"prompt,reference,output", *(bad.get(n % 7, b"p,r,%d" % n) for n in range(200))]
    wanted = [n for n in range(200) if n % 7 < 3]
    for block in (64, 1 << 20):
        monkeypatch.setattr(csv_text, "BLOCK_BYTES", block)
        rows, errors = read(path, b"\n".join(lines))
        assert sorted(errors) == wanted
        assert [row["output"] for row in rows if row["output"]] == [
            str(n) for n in range(200) if n % 7 > 2
        ]
        assert f"line 2 of {path} has 2 field(s), its header 3" in errors[0]
        assert f"line 3 of {path} has 4 field(s), its header 3" in errors[1]
        assert errors[2].startswith(f"bad_text: line 4 of {path} is not UTF-8")
        assert f"line 199 of {path}" in errors[197]
    assert [*read(path, b"prompt,reference,output\nalone")[1]] == [0]
    assert read(path, b"prompt,reference,output") == ([], {})
    assert read(path, b"prompt,reference,output\rp,r,o\r") == ([RECORD], {}), "an old Mac's"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("in.csv", b"", "no header row"),
        ("in.csv", b"a,b,a\n", "names 'a' twice"),
        (
            "in.csv",
            b'prompt,reference,output\np,r,"o\np,r,o\n',
            "begins in its line 2 does not end",
        ),
        ("in.csv", b"a" * 70_000, "header row is longer"),
        ("in.json", b"[" + GOOD, "in.json cannot be read"),
        ("in.json", b"[" + GOOD + b"," + GOOD[:-5] + b"]", "item 2 is cut off or no JSON"),
        ("in.json", b"[" + GOOD + GOOD + b"]", "neither a comma nor ] stands behind item 1"),
        ("in.json", b'{"records": [' + GOOD + b"]}", "give the list itself, or one JSON object"),
        ("in.json", b'{"n": 1,"data": [\n' + GOOD + b"]}", "give the list itself"),
        ("in.json", BOM + b'{\n "prompt": "p"\n}\n', "one JSON object a line"),
        ("in.json", GOOD.decode().encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("in.jsonl", GOOD.decode().encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("in.csv", "prompt;reference;output\n".encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("in.jsonl", GOOD.decode().encode("utf-16-le"), "UTF-16; save it as UTF-8"),
        ("in.csv", b"p,r,o".decode().encode("utf-16-be"), "UTF-16; save it as UTF-8"),
        ("in.jsonl.gz", gzip.compress(GOOD * 1000)[:-20], "in.jsonl.gz cannot be read"),
        ("in.jsonl.gz", GOOD, "in.jsonl.gz cannot be read"),
        ("in.jsonl", b"x" * (1 << 20), "a line is longer than 0 MiB"),
        ("in.json", b'[{"prompt": "' + b"x" * (3 << 20) + b'"}]', "cut off or no JSON"),
        ("in.parquet", b"PAR1 but no more", "in.parquet cannot be read"),
        ("in.parquet", b"", "in.parquet cannot be read"),
        ("in.arrow", b"", "in.arrow cannot be read"),
    ],
    ids=range(22),
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, message: str
) -> None:
    monkeypatch.setattr(json_text, "LINE_BYTES", 1 << 19)
    with pytest.raises(Unreadable, match=message) as caught:
        read(tmp_path / name, data)
    assert isinstance(caught.value, RecordError)
    assert str(tmp_path / name) in str(caught.value)


def test_parquet_columns_of_any_kind_are_read(tmp_path: Path) -> None:
    messages = [[{"role": "user", "content": "p"}], None, []]
    table = pa.table(
        {
            "prompt": messages,
            "reference": pa.array(["r", "r", None]).dictionary_encode(),
            "output": pa.array(["o", "", "x"], pa.large_string()),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    rows, errors = records(Source(str(tmp_path / "in.parquet")))
    assert errors == {
        2: "bad_message: prompt is an empty list of messages; send '' for an empty text"
    }
    assert [tuple(row.values()) for row in rows[:2]] == [("p", "r", "o"), (None, "r", "")]


def test_files_of_a_folder_are_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "_manifest.json").write_text("{}")
    for n in range(3):
        pq.write_table(pa.table({"n": [n]}), tmp_path / f"part-{n}.parquet")
    assert load(Source(str(tmp_path)), ["n"])["n"].to_pylist() == [0, 1, 2]
    assert load(Source(str(tmp_path / "*-?.parquet")), ["n"]).num_rows == 3
    with pytest.raises(ConfigError, match="no column 'x'; there are n"):
        load(Source(str(tmp_path)), ["x"])
    with pytest.raises(ConfigError, match=r"no file .*\*\.csv"):
        Source(str(tmp_path / "*.csv"))
    pq.write_table(pa.table({"n": [["a"]]}), tmp_path / "part-3.parquet")
    with pytest.raises(ConfigError, match="differ in their columns"):
        load(Source(str(tmp_path)), ["n"])
    (tmp_path / "part-3.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(RecordError, match=r"part-3\.parquet cannot be read"):
        load(Source(str(tmp_path)), ["n"])


def test_stores_of_fsspec_are_read() -> None:
    with fsspec.open("memory://records/in.csv", "wb") as file:
        file.write(encoded("csv"))
    assert records(Source("memory://records/in.csv")) == (GROUPS, {})
    assert records(Source("memory://records/*.csv")) == (GROUPS, {})


def test_loading_raises_for_a_row_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"score": 1.5}\n{"score": \n')
    with pytest.raises(RecordError, match=r"line 2 of .*in\.jsonl is not JSON"):
        load(Source(str(path)), ["score"])


def test_the_first_chunks_are_small_and_none_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ending in ("jsonl", "parquet"):
        path = tmp_path / f"in.{ending}"
        rows = [RECORD] * 3000
        if ending == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)
        source = Source(str(path))
        sizes, shares = [], []
        for chunk in source.chunks():
            sizes.append(chunk.num_rows)
            shares.append(source.done_bytes)
        assert sizes[:3] == [16, 64, 256]
        assert max(sizes) <= 1024
        assert sum(sizes) == 3000
        assert shares == sorted(shares)
        assert source.size_bytes == source.done_bytes == path.stat().st_size
    for module in (json_text, source_module):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1 << 12)
    for ending in ("jsonl", "parquet"):
        chunks = list(Source(str(tmp_path / f"in.{ending}")).chunks())
        assert sum(chunk.num_rows for chunk in chunks) == 3000
        assert max(chunk.num_rows for chunk in chunks) < 300


def test_a_dictionary_that_rows_share_does_not_cut_them_small() -> None:
    column = pa.array(["x" * (9 << 20), "y"]).dictionary_encode().take(pa.array([1] * 100))
    pieces = list(sliced([Rows(pa.table({"a": column}), {})], repeat(1024)))
    assert [piece.num_rows for piece in pieces] == [100]


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ConfigError, match="'xml' is not known; there are parquet, jsonl"):
        Source("-", format="xml")


def test_reading_waits_for_no_more_than_it_gives(stdin: Any) -> None:
    stdin((GOOD + b"\n") * 100)
    chunks = Source("-").chunks()
    first = next(chunks)
    assert isinstance(first, Objects)
    assert first.num_rows == 16
    pipe: Any = sys.stdin.buffer.raw  # type: ignore[attr-defined]
    assert pipe.at < 20 * len(GOOD)
