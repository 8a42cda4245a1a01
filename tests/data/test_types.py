"""Every Arrow type against every output: a column comes back equal, or is refused by its type."""

from __future__ import annotations

import io
import json
import math
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from polar_ray.cli import cli
from polar_ray.config import RescoreConfig
from polar_ray.data.arrow import checked, plain_schema
from polar_ray.data.json_columns import from_json, is_json, json_values
from polar_ray.data.kinds import Kinds
from polar_ray.data.nested import retyped
from polar_ray.data.rows import Rows
from polar_ray.data.schemas import together
from polar_ray.data.source import Source
from polar_ray.data.times import is_time, with_texts
from polar_ray.data.written import check_written
from polar_ray.errors import ConfigError
from polar_ray.offline import rescore

OLD_ARROW = int(pa.__version__.partition(".")[0]) < 26
GOOD = {"prompt": "p", "reference": "r", "output": "o"}
ROWS = 3
UNITS = ("s", "ms", "us", "ns")
OUTPUTS = ("parquet", "arrow", "jsonl", "csv")


def of_ints(kind: pa.DataType, *values: int | None) -> pa.Array:
    numbers = pa.int32() if kind.bit_width == 32 else pa.int64()
    return pa.array(values, numbers).view(kind)


def bits_of_floats(name: str) -> pa.Array:
    return pa.array(np.array([-0.0, math.nan, -math.inf], name))


def kinds() -> dict[str, tuple[pa.Array, str]]:
    """Columns of each type with values, null and what is extreme; and the outputs that refuse it,
    by their first letters."""
    found: dict[str, tuple[pa.Array, str]] = {}
    for unit in UNITS:
        most = {"s": 0, "ms": 999, "us": 999_999, "ns": 999_999_999}[unit]
        for zone in (None, "UTC", "Asia/Shanghai", "-03:30"):
            kind = pa.timestamp(unit, zone)
            column = of_ints(kind, most - 86_400_000, None, most + 10**9)
            found[f"{kind}"] = (column, "p" if unit == "s" else "")
        found[f"duration {unit}"] = (of_ints(pa.duration(unit), -1, None, 2**60), "jc")
    found |= {
        "date32": (of_ints(pa.date32(), -700_000, None, 20_000), ""),
        "date64": (of_ints(pa.date64(), -86_400_000, None, 0), "p"),
        "time32 s": (of_ints(pa.time32("s"), 86_399, None, 0), "p"),
        "time32 ms": (of_ints(pa.time32("ms"), 86_399_999, None, 0), ""),
        "time64 us": (of_ints(pa.time64("us"), 86_399_999_999, None, 0), ""),
        "time64 ns": (of_ints(pa.time64("ns"), 86_399_999_999_999, None, 1), ""),
        "null": (pa.nulls(ROWS), ""),
        "bool": (pa.array([True, None, False]), ""),
        "string": (pa.array(["a\n\"',", None, ""]), ""),
        "large string": (pa.array(["\u5317", None, ""], pa.large_string()), ""),
        "string view": (pa.array(["x" * 20, None, ""], pa.string_view()), ""),
        "binary": (pa.array([b"\xff", None, b""]), "jc"),
        "large binary": (pa.array([b"\xff", None, b""], pa.large_binary()), "jc"),
        "binary view": (pa.array([b"\xff" * 20, None, b""], pa.binary_view()), "jc"),
        "fixed binary": (pa.array([b"\xff\0", None, b"ab"], pa.binary(2)), "jc"),
        "no binary": (pa.array([b"", None, b""], pa.binary(0)), "pjc"),
        "dictionary": (pa.array(["a", None, "b"]).dictionary_encode(), ""),
        "dictionary of ints": (pa.array([1, None, 2]).dictionary_encode(), ""),
        "interval": (pa.array([(1, 2, 3), None, (0, 0, 0)], pa.month_day_nano_interval()), "pjc"),
        "runs": (pa.RunEndEncodedArray.from_arrays([1, 3], ["a", "b"]), "pjc"),
        "list": (pa.array([[1, None], None, []]), "c"),
        "large list": (pa.array([[1, None], None, []], pa.large_list(pa.int64())), "c"),
        "list view": (pa.array([[1, None], None, []], pa.list_view(pa.int64())), "c"),
        "list of no name": (pa.array([[1], [2], []], pa.list_(pa.field("", pa.int64()))), "c"),
        "list of times": (pa.array([[1], None, []], pa.list_(pa.time64("ns"))), "c"),
        "list of seconds": (pa.array([[1], None, []], pa.list_(pa.timestamp("s"))), "pc"),
        "list of bytes": (pa.array([[b"a"], None, []], pa.list_(pa.binary())), "jc"),
        "lists of two": (pa.array([[1, 2], [3, None], [5, 6]], pa.list_(pa.int8(), 2)), "c"),
        "lists of none": (pa.array([[], None, []], pa.list_(pa.int8(), 0)), "pc"),
        "struct": (pa.array([{"a": 1, "b": {"c": None}}, None, {"a": 2, "b": None}]), "c"),
        "struct without fields": (pa.array([{}, {}, {}], pa.struct([])), "pc"),
        "struct of bytes": (pa.array([{"a": b"x"}, None, {"a": None}]), "jc"),
        "struct of nanoseconds": (
            pa.array([{"a": 1}, None, {"a": None}], pa.struct([("a", pa.timestamp("ns", "UTC"))])),
            "c",
        ),
        "views beside times": (
            pa.array(
                [[{"v": "x" * 20, "t": 1}], None, []],
                pa.list_(pa.struct([("v", pa.string_view()), ("t", pa.time64("ns"))])),
            ),
            "c",
        ),
        "fields of one name": (
            pa.StructArray.from_arrays([pa.array([1, 2, 3]), pa.array([4, 5, 6])], ["a", "a"]),
            "jc",
        ),
        "map": (pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())), "c"),
        "map of dates": (
            pa.array([[(1, 2)], None, []], pa.map_(pa.date32(), pa.time64("us"))),
            "c",
        ),
        "union": (
            pa.UnionArray.from_dense(
                pa.array([0] * ROWS, pa.int8()), pa.array(range(ROWS), pa.int32()),
                [pa.array([1, 2, None])],
            ),
            "pjc",
        ),
        "tensor": (
            pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(pa.int64(), [2], permutation=[0]),
                pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2)),
            ),
            "jc",
        ),
    }  # fmt: skip
    for bits in (8, 16, 32, 64):
        ends = (-(1 << bits - 1), None, (1 << bits - 1) - 1)
        found[f"int{bits}"] = (pa.array(ends, getattr(pa, f"int{bits}")()), "")
        found[f"uint{bits}"] = (
            pa.array((0, None, (1 << bits) - 1), getattr(pa, f"uint{bits}")()),
            "",
        )
    for bits in (16, 32, 64):
        found[f"float{bits}"] = (bits_of_floats(f"float{bits}"), "")
    for name, precision, scale, refuses in (
        ("32", 5, 2, "j"), ("64", 18, 18, "j"), ("128", 38, 0, "j"), ("128", 10, -2, "pj"),
        ("256", 76, 40, "j"),
    ):  # fmt: skip
        if (make := getattr(pa, f"decimal{name}", None)) is not None:
            value = Decimal(123).scaleb(-scale)
            column = pa.array([value, None, -value], make(precision, scale))
            found[f"decimal{name} {scale}"] = (column, refuses)
    for name, storage in (
        ("uuid", pa.array([b"a" * 16, None, b"b" * 16], pa.binary(16))),
        ("json_", pa.array(['{"a":1}', None, "5"])),
        ("bool8", pa.array([1, None, 0], pa.int8())),
    ):
        if (make := getattr(pa, name, None)) is not None:
            found[name] = (pa.ExtensionArray.from_storage(make(), storage), "jc")
    return found


KINDS = kinds()
if OLD_ARROW:  # of lists of one size, 18 writes no null to parquet, and float16 is numpy's
    for name in ("lists of two", "tensor"):
        KINDS[name] = (KINDS[name][0], "p" + KINDS[name][1])


def written(path: Path, columns: dict[str, pa.Array]) -> Path:
    table = pa.table({**{name: [text] * ROWS for name, text in GOOD.items()}, **columns})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    return path


def kept_by(output: str) -> dict[str, pa.Array]:
    return {name: column for name, (column, refuses) in KINDS.items() if output[0] not in refuses}


def plain(column: pa.Array) -> pa.DataType:
    return plain_schema(pa.schema([("a", column.type)])).field(0).type


def same(found: pa.ChunkedArray, column: pa.Array) -> bool:
    """Of one type (views and dictionaries are plain) and bit for bit equal."""
    found = pa.concat_arrays(found.chunks)
    if found.type != plain(column):
        return False
    if pa.types.is_floating(column.type):
        return found.to_numpy().tobytes() == column.to_numpy().tobytes()
    if found.type == column.type:
        return found.equals(column)
    return repr(with_texts(found).to_pylist()) == repr(with_texts(column).to_pylist())


def from_text(texts: list[str | None], kind: pa.DataType) -> pa.Array:
    """Dates and times as others read them."""
    if not pa.types.is_time(kind):
        return pa.array(texts, pa.string()).cast(kind)
    values: list[int | None] = []
    for text in texts:
        if text is None:
            values.append(None)
            continue
        clock, _, fraction = text.partition(".")
        hour, minute, second = map(int, clock.split(":"))
        values.append(int(f"{(hour * 60 + minute) * 60 + second}{fraction}"))
    return of_ints(kind, *values)


def run(tiny_dir: Path, source: Path, out: Path, group: str) -> pa.Table:
    given = {"model": str(tiny_dir), "engine": {"type": "stub"}, "group": group}
    rescore(RescoreConfig.model_validate({**given, "rows_per_part": 2}), str(source), str(out))
    return pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("*.parquet")))


def score(tiny_dir: Path, source: Path, out: Path) -> Any:
    options = ["--keep-columns", "--output", str(out), "--model", str(tiny_dir), "engine.type=stub"]
    return CliRunner().invoke(cli, ["score", str(source), *options])


def kept(tmp_path: Path, tiny_dir: Path, output: str) -> tuple[dict[str, pa.Array], Path]:
    """All columns that such a file can hold, and the one to which they were scored."""
    columns, out = kept_by(output), tmp_path / f"out.{output}"
    done = score(tiny_dir, written(tmp_path / "in.arrow", columns), out)
    assert done.exit_code == 0, done.output
    return columns, out


@pytest.mark.parametrize("group", ["never", "always"])
def test_parts_hold_every_column_that_is_not_refused(
    tmp_path: Path, tiny_dir: Path, group: str
) -> None:
    columns = kept_by("parquet")
    source = written(tmp_path / "in.arrow", {**columns, "place": pa.array(range(ROWS))})
    found = run(tiny_dir, source, tmp_path / "out", group)
    found = found.take(pa.array(np.argsort(found["place"].to_numpy())))
    assert [name for name, column in columns.items() if not same(found[name], column)] == []


@pytest.mark.parametrize("output", ["parquet", "arrow"])
def test_files_of_columns_hold_every_column_that_is_not_refused(
    tmp_path: Path, tiny_dir: Path, output: str
) -> None:
    columns, out = kept(tmp_path, tiny_dir, output)
    found = pq.read_table(out) if output == "parquet" else pa.ipc.open_file(out).read_all()
    assert [name for name, column in columns.items() if not same(found[name], column)] == []


@pytest.mark.parametrize("output", ["jsonl", "csv"])
def test_text_says_every_value_that_is_not_refused(
    tmp_path: Path, tiny_dir: Path, output: str
) -> None:
    columns, out = kept(tmp_path, tiny_dir, output)
    if output == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        rows = [row for chunk in Source(str(out)).chunks() for row in chunk.to_pylist()]
    wrong = {
        name: [row[name] for row in rows]
        for name, column in columns.items()
        if not says([row[name] for row in rows], column, output)
    }
    assert wrong == {}


def says(values: list[Any], column: pa.Array, output: str) -> bool:
    kind = column.type
    if is_time(kind):
        return bool(from_text(values, kind).equals(column))
    if retyped(kind, lambda leaf: pa.null() if is_time(leaf) else leaf) != retyped(
        kind, lambda leaf: leaf
    ):
        return values == json.loads(json.dumps(with_texts(column).to_pylist()))
    wanted = json_values(column) if kind == pa.float16() else column.to_pylist()
    if output == "jsonl":
        return repr(values) == repr(json.loads(json.dumps(wanted)))
    read = {float: float, bool: lambda text: text == "true", int: int, Decimal: Decimal, str: str}
    back = [
        None if text is None else read[type(next(v for v in wanted if v is not None))](text)
        for text in values
    ]
    return repr(back) == repr(wanted) or (pa.types.is_decimal(kind) and back == wanted)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", KINDS)
def test_a_type_is_refused_before_any_row_or_not_at_all(name: str, output: str) -> None:
    column, refuses = KINDS[name]
    schema = plain_schema(pa.schema([("good", pa.string()), ("odd", column.type)]))
    files = [("first.arrow", pa.schema([("good", pa.string())])), ("in.arrow", schema)]
    if output[0] not in refuses:
        check_written(schema, f".{output}", files)
        return
    with pytest.raises(ConfigError) as caught:
        check_written(schema, f".{output}", files)
    said = str(caught.value)
    assert f"column 'odd' of in.arrow is {plain(column)!s:.40}" in said
    assert f"a .{output} file cannot hold" in said
    assert "cast it to another type or leave it out" in said


@pytest.mark.parametrize("name", KINDS)
def test_a_column_beside_other_kinds_in_json_is_its_json_or_refused(name: str) -> None:
    column, refuses = KINDS[name]
    held = plain_schema(pa.schema([("odd", column.type)]))
    files = [("in.arrow", held), ("in.jsonl", Kinds([{"odd": 1}, {"odd": "x"}]))]
    if "j" in refuses:
        with pytest.raises(ConfigError, match=r"'odd' of in\.arrow is .* only JSON text holds"):
            together(files)
        return
    whole = together(files)
    assert is_json(whole.field("odd"))
    [batch] = checked([pa.record_batch({"odd": column})])
    fitted = Rows(pa.Table.from_batches([batch]), {}).fit(whole).table["odd"]
    wanted = json.loads(json.dumps(json_values(column)))
    assert repr(from_json(fitted)) == repr(wanted)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (pa.date32(), -800_000, "-0221-09-04"),
        (pa.date32(), 2**31 - 1, "+5881580-07-11"),
        (pa.date32(), date(9999, 12, 31).toordinal() - 719_163, "9999-12-31"),
        (pa.timestamp("s"), 2**60, "+36534630048-05-13T13:56:16"),
        (pa.timestamp("s"), -(2**63), "-292277022657-01-27T08:29:52"),
        (pa.timestamp("us", "UTC"), 2**62, "+148108-07-06T14:00:27.387904+00:00"),
        (pa.timestamp("ns"), 1, "1970-01-01T00:00:00.000000001"),
        (pa.timestamp("ns", "Asia/Shanghai"), -1, "1969-12-31T23:59:59.999999999+00:00"),
        (pa.time64("ns"), 123_456_789, "00:00:00.123456789"),
        (pa.time32("s"), 90_000, "25:00:00"),
    ],
    ids=str,
)
def test_far_dates_and_times_are_exact_text(kind: pa.DataType, value: int, text: str) -> None:
    assert with_texts(of_ints(kind, value)).to_pylist() == [text]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int8(), 2**31 - 1),
        pa.binary(2**31 - 1),
        pa.list_(pa.list_(pa.struct([("a", pa.list_(pa.int8(), 2**15))]), 2**15), 2**15),
    ],
    ids=["list", "binary", "nested"],
)
def test_values_that_nobody_can_hold_are_refused_untried(kind: pa.DataType) -> None:
    for ending in (".parquet", ".arrow"):
        with pytest.raises(ConfigError, match=r"column 'odd' is .*each value takes [0-9,]+ places"):
            check_written(pa.schema([("odd", kind)]), ending)


def test_a_pipe_of_columns_is_looked_at_before_it_is_scored(tiny_dir: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({**{key: [text] for key, text in GOOD.items()}, "odd": [b"x"]}), sink)
    command = ["score", "-", "--keep-columns", "--model", str(tiny_dir), "engine.type=stub"]
    done = CliRunner().invoke(cli, command, input=sink.getvalue())
    assert (done.exit_code, done.stdout) == (2, "")
    assert "column 'odd' of stdin is binary, which a .jsonl file cannot hold" in done.stderr


def test_a_column_that_is_never_null_may_be_in_one_of_the_files(
    tmp_path: Path, tiny_dir: Path
) -> None:
    (tmp_path / "in").mkdir()
    texts = {key: [text] for key, text in GOOD.items()}
    sure = pa.schema([*(pa.field(k, pa.string()) for k in texts), pa.field("n", pa.int64(), False)])
    pq.write_table(pa.table({**texts, "n": [1]}, schema=sure), tmp_path / "in" / "a.parquet")
    pq.write_table(pa.table(texts), tmp_path / "in" / "b.parquet")
    assert run(tiny_dir, tmp_path / "in", tmp_path / "out", "never")["n"].to_pylist() == [1, None]
