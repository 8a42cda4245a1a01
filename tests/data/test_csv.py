"""Rows of CSV are those that Python's own strict reader finds, or the file is refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.data import csv_text
from polar_ray.data.rows import Unreadable
from polar_ray.data.source import Source

NAMES = ["prompt", "reference", "output"]
ROWS = [[f"p{n}", "r", "o"] for n in range(10_000)]
FIELDS = st.text('a", \n\r\u5317', max_size=6)


def written(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([NAMES, *rows])
    return text.getvalue()


def strict(text: str) -> list[list[str]] | None:
    """The rows behind the header as Python reads them; None where it refuses them."""
    try:
        found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        return None
    return [row for row in found if row][1:]


def read(path: Path, text: str) -> list[list[str]] | None:
    """The rows as a source gives them, those of another length empty; None where it refuses."""
    path.write_bytes(text.encode())
    try:
        chunks = list(Source(str(path)).chunks([1000] * 1000))
    except Unreadable:
        return None
    found: list[list[str]] = []
    for chunk in chunks:
        for index, row in enumerate(chunk.to_pylist()):
            bad = index in chunk.errors
            found.append([] if bad else ["" if v is None else v for v in row.values()])
    return found


def of_one_length(rows: list[list[str]] | None) -> list[list[str]] | None:
    return rows and [row if len(row) == len(NAMES) else [] for row in rows]


@given(rows=st.lists(st.lists(FIELDS, min_size=3, max_size=3), max_size=6))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    assert read(tmp_path_factory.mktemp("csv") / "in.csv", written(rows)) == rows


@given(
    rows=st.lists(st.lists(FIELDS, min_size=3, max_size=3), min_size=1, max_size=6),
    at=st.integers(0, 200),
    block=st.sampled_from([64, 1 << 20]),
)
def test_a_stray_quote_loses_no_row(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], at: int, block: int
) -> None:
    text = written(rows)
    at = len(",".join(NAMES)) + 2 + at % (len(text) - len(",".join(NAMES)) - 1)
    text = f'{text[:at]}"{text[at:]}'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_text, "BLOCK_BYTES", block)
        found = read(tmp_path_factory.mktemp("csv") / "in.csv", text)
    if found is not None:
        assert found == of_one_length(strict(text))
    elif block > len(text):
        assert strict(text) is None


@pytest.mark.parametrize(
    ("opened", "line", "what"),
    [((5,), 7, "does not end"), ((5, 9000), 7, "goes on behind"), ((9999,), 10_001, "not end")],
)
@pytest.mark.parametrize("block", [1 << 12, 16 << 20])
def test_stray_quotes_in_a_long_file_refuse_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: tuple[int, ...], line: int, what: str,
    block: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(csv_text, "BLOCK_BYTES", block)
    monkeypatch.setattr(csv_text, "ROW_BYTES", block)
    path = tmp_path / "in.csv"
    lines = written(ROWS).splitlines()
    for row in opened:
        lines[row + 1] = f'"{lines[row + 1]}'
    path.write_text("\n".join(lines))
    if block == 1 << 12 and len(opened) > 1:
        what = "does not end"  # within a block
    with pytest.raises(Unreadable, match=rf"in\.csv .*in its line {line} .*{what}.*twice"):
        list(Source(str(path)).chunks())


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_quotes_are_looked_at_with_any_delimiter(tmp_path: Path, delimiter: str) -> None:
    head, good, bad = "prompt,reference,output\n", '"a"" b",r,o\n', '"a" b,r,o\n'
    text = (head + good).replace(",", delimiter)
    assert read(tmp_path / "in.csv", text) == [['a" b', "r", "o"]]
    assert read(tmp_path / "in.csv", (head + bad).replace(",", delimiter)) is None


def test_a_byte_order_mark_is_no_text_before_a_quote(tmp_path: Path) -> None:
    text = '\ufeff"prompt\n",reference,output\n"a"" ""b",r,"o"'
    assert read(tmp_path / "in.csv", text) == [['a" "b', "r", "o"]]


def test_windows_line_ends_in_a_field_may_be_where_blocks_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in range(30, 60):
        monkeypatch.setattr(csv_text, "BLOCK_BYTES", block)
        rows = [["a\r\nb", "r", "o"] for _ in range(20)]
        assert read(tmp_path / "in.csv", written(rows)) == rows


def test_errors_name_the_line_of_the_file_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    text = '\n\nprompt,reference,output\n\n"a\n\nb",r,o\n\r\np,r\n\n,,\np,r,"o\r\nx"\np,r,o,\n'
    path.write_bytes(text.encode())
    [chunk] = Source(str(path)).chunks([1000])
    assert [row["prompt"] for row in chunk.to_pylist()] == ["a\n\nb", None, None, "p", None]
    said = {row: error.partition(": ")[2] for row, error in chunk.errors.items()}
    assert said == {
        1: f"line 9 of {path} has 2 field(s), its header 3",
        4: f"line 14 of {path} has 4 field(s), its header 3",
    }


@pytest.mark.parametrize("quote", ["", '"'])
def test_an_endless_row_is_refused_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quote: str
) -> None:
    monkeypatch.setattr(csv_text, "ROW_BYTES", 1 << 20)
    monkeypatch.setattr(csv_text, "BLOCK_BYTES", 1 << 16)
    path = tmp_path / "in.csv.zst"
    with pa.output_stream(path, compression="zstd") as stream:
        stream.write(f"prompt,reference,output\np,r,o\np,r,{quote}".encode())
        for _ in range(64):
            stream.write(b"x" * (1 << 20))
    message = "does not end" if quote else "the row in its line 3 is longer than 1 MiB"
    with pytest.raises(Unreadable, match=rf"in\.csv\.zst .*{message}"):
        list(Source(str(path)).chunks())


def test_many_short_fields_are_a_long_row_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_text, "ROW_BYTES", 1 << 16)
    monkeypatch.setattr(csv_text, "BLOCK_BYTES", 1 << 12)
    (tmp_path / "in.csv").write_text("a,b,c\n" + "x," * (1 << 16))
    with pytest.raises(Unreadable, match="the row in its line 2 is longer than 0 MiB"):
        list(Source(str(tmp_path / "in.csv")).chunks())


def test_a_header_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"prompt,reference,output,\xe9\np,r,o,1\n")
    with pytest.raises(Unreadable, match=r"a column '\\udce9', which is not UTF-8"):
        Source(str(path)).schema()
