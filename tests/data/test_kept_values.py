"""What is only passed through leaves as it came, whatever it is, and decides about no row."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from polar_ray.cli import cli
from polar_ray.config import RescoreConfig
from polar_ray.data.source import Source, load
from polar_ray.errors import ConfigError, JobStopped
from polar_ray.offline import rescore
from polar_ray.records import SCORE_SCHEMA

OLD_ARROW = int(pa.__version__.partition(".")[0]) < 26
"""Seen with 18: it reads columns of 60 levels, and writes no null of a list of fixed size."""

GOOD = {"prompt": "p", "reference": "r", "output": "o"}

numbers = (
    st.integers(-3, 3)
    | st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 0.5, 1e300])
)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=3)
keys = st.sampled_from(["a", "b", "a.b", ""]) | st.text(max_size=2)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
like = st.one_of(st.lists(one, max_size=3) for one in (st.integers(0, 9), st.booleans(), st.text()))
columns = st.dictionaries(
    st.sampled_from(["n", "meta", "late", "", "x.y", "\0"]), values | numbers | like, max_size=3
)


def equal(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1, and an int is the float of its value."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(v, other[k]) for k, v in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and one == other


def kept(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the scores and what is null, as what a row does not have is in a column."""
    return [
        {k: v for k, v in row.items() if k not in SCORE_SCHEMA.names and v is not None}
        for row in rows
    ]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [row for chunk in Source(str(path)).chunks() for row in chunk.to_pylist()]


def run(tiny_dir: Path, source: Path, out: Path, **changes: Any) -> dict[str, Any]:
    given = {"model": str(tiny_dir), "engine": {"type": "stub"}, "group": "never", **changes}
    return rescore(RescoreConfig.model_validate(given), str(source), str(out))


def score(tiny_dir: Path, *arguments: object) -> Any:
    options = ("--model", str(tiny_dir), "engine.type=stub")
    return CliRunner().invoke(cli, ["score", *map(str, arguments), *options])


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(columns, min_size=1, max_size=6),
    group=st.sampled_from(["never", "always"]),
    form=st.sampled_from(["jsonl", "json"]),
    ending=st.sampled_from(["parquet", "arrow", "jsonl"]),
)
def test_any_json_leaves_with_equal_values(
    tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path, rows: list[dict[str, Any]],
    group: str, form: str, ending: str,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("kept")
    source, out = folder / f"in.{form}", folder / f"out.{ending}"
    given = [{**GOOD, "place": place, **row} for place, row in enumerate(rows)]
    lines(source, given)
    if form == "json":
        source.write_text(json.dumps(given))
    manifest = run(tiny_dir, source, folder / "out", rows_per_part=2, group=group)
    assert manifest["num_errors"] == 0
    found = sorted(read(folder / "out"), key=lambda row: row["place"])
    assert equal(kept(found), kept(given))
    done = score(tiny_dir, source, "--keep-columns", "--output", out)
    assert done.exit_code == 0, done.output
    assert equal(kept(read(out)), kept(given))


@pytest.mark.parametrize(
    "odd",
    [
        [0] * 3 + [0.5, 0.9],
        [0, "n/a", 0.5, 0.9],
        [[0], [0.7]],
        [{"a": 1}, {"a": 1, "late": 2}, {"b": None}],
        [{}, {}],
        [[], None, [None]],
        [2**53 + 1, 0.5],
        [2**64 - 1, 0],
        [2**64 - 1, -1],
        [-(2**70), 10**4000],
        [True, 1],
        [json.loads("[" * 60 + "1" + "]" * 60)],
        [json.loads('{"a":' * 240 + "1" + "}" * 240)],
        ["\0", "\u2028"],
    ],
    ids=lambda odd: json.dumps(odd)[:30],
)
def test_odd_columns_leave_as_they_came(tmp_path: Path, tiny_dir: Path, odd: list[Any]) -> None:
    given = [{**GOOD, "odd": value} for value in odd]
    lines(tmp_path / "in.jsonl", given)
    manifest = run(tiny_dir, tmp_path / "in.jsonl", tmp_path / "out")
    assert manifest["num_errors"] == 0
    assert equal(kept(read(tmp_path / "out")), kept(given))


def test_what_comes_late_is_kept(tmp_path: Path, tiny_dir: Path) -> None:
    # Behind what was once the sample of a file.
    row = {**GOOD, "pad": "x" * 60_000, "reward": 0}
    given = [row] * 80 + [{**row, "reward": 0.5, "late": {"a": [0.5]}}]
    lines(tmp_path / "in.jsonl", given)
    run(tiny_dir, tmp_path / "in.jsonl", tmp_path / "out")
    assert equal(kept(read(tmp_path / "out")), given)
    assert load(Source(str(tmp_path / "in.jsonl")), ["reward"])["reward"].to_pylist()[-1] == 0.5
    parts = pq.read_table(tmp_path / "out")
    assert parts["reward"].type == pa.float64()
    assert parts["late"].type == pa.struct([("a", pa.list_(pa.float64()))])


def test_a_late_column_does_not_take_a_scores_name(tiny_dir: Path, tmp_path: Path) -> None:
    lines(tmp_path / "in.jsonl", [GOOD] * 9000 + [{**GOOD, "score": 1}])
    out = tmp_path / "out.parquet"
    done = score(tiny_dir, tmp_path / "in.jsonl", "--keep-columns", "--output", out)
    assert (done.exit_code, out.exists()) == (2, False)
    assert "the input has column(s) score already" in done.stderr


def test_in_csv_every_value_is_its_text(tiny_dir: Path, tmp_path: Path) -> None:
    odd = ["n/a", 0, None, {"a": ["b"]}, ""]
    lines(tmp_path / "in.jsonl", [{**GOOD, "odd": value} for value in odd])
    out = tmp_path / "out.csv"
    done = score(tiny_dir, tmp_path / "in.jsonl", "--keep-columns", "--output", out)
    assert done.exit_code == 0, done.output
    assert [row["odd"] for row in read(out)] == ["n/a", "0", None, '{"a":["b"]}', ""]


def test_a_pipe_is_kept_as_a_file_is(tiny_dir: Path, tmp_path: Path) -> None:
    given = [{**GOOD, "n": 0}] * 20 + [{**GOOD, "n": 0.5}, {**GOOD, "n": "x"}]
    data = "".join(json.dumps(row) + "\n" for row in given)
    options = ["--keep-columns", "--output", str(tmp_path / "out.parquet"), "engine.type=stub"]
    command = ["score", "-", *options, "--model", str(tiny_dir)]
    done = CliRunner().invoke(cli, command, input=data.encode())
    assert done.exit_code == 0, done.output
    assert equal(kept(read(tmp_path / "out.parquet")), given)


def test_files_of_json_are_of_one_mind(tmp_path: Path, tiny_dir: Path) -> None:
    (tmp_path / "in").mkdir()
    values = [1, 0.5, "x", None, {"a": 1}]
    for number, value in enumerate(values):
        lines(tmp_path / "in" / f"{number}.jsonl", [{**GOOD, "meta": value, "id": number}])
    run(tiny_dir, tmp_path / "in", tmp_path / "out")
    table = pq.read_table(tmp_path / "out")
    assert table["meta"].to_pylist() == ["1", "0.5", '"x"', None, '{"a":1}']
    assert [row["meta"] for row in read(tmp_path / "out")] == values
    run(tiny_dir, tmp_path / "out", tmp_path / "again", prefix="new_")
    assert [row["meta"] for row in read(tmp_path / "again")] == values, "said again by the parts"
    again = tmp_path / "out" / "plain.parquet"
    pq.write_table(pa.table({**{k: [v] for k, v in GOOD.items()}, "meta": ["x"]}), again)
    found = load(Source(str(tmp_path / "out")), ["meta"])
    assert found["meta"].to_pylist()[-2:] == ['{"a":1}', '"x"']


def test_texts_of_two_kinds_are_scored_alike(tmp_path: Path, tiny_dir: Path) -> None:
    messages = [{"role": "user", "content": "p"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "p"}]}]
    prompts = ["p", messages, parts, [{**messages[0], "name": "x"}], 5, None]
    given = [
        {"extra_info": {"prompt": prompt, "n": {str(n): n}}, "output": "o",
         "reward_model": {"ground_truth": "r"}}
        for n, prompt in enumerate(prompts)
    ]  # fmt: skip
    lines(tmp_path / "in.jsonl", given)
    manifest = run(tiny_dir, tmp_path / "in.jsonl", tmp_path / "out")
    assert manifest["errors"] == {"bad_message": 1, "null_field": 1}
    rows = read(tmp_path / "out")
    assert len({row["score"] for row in rows[:4]}) == 1
    assert equal(kept([{**row, "error": None} for row in rows]), given)
    said = score(tiny_dir, tmp_path / "in.jsonl")
    assert [json.loads(line)["score"] for line in said.stdout.splitlines()] == [
        pytest.approx(row["score"]) for row in rows
    ]


def test_what_is_too_deep_to_be_written_is_named(tmp_path: Path, tiny_dir: Path) -> None:
    deep = "[" * 300 + "]" * 300
    text = f'{{"prompt": "p", "reference": "r", "output": "o", "deep": {deep}}}'
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=r"column 'deep' of .*in\.jsonl has more than 250 lists"):
        run(tiny_dir, tmp_path / "in.jsonl", tmp_path / "out")
    assert score(tiny_dir, tmp_path / "in.jsonl").exit_code == 0
    done = score(tiny_dir, tmp_path / "in.jsonl", "--keep-columns")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["deep"] == json.loads(deep)


REFUSED = {
    "empty": pa.struct([]),
    "inner": pa.list_(pa.struct([])),
    "union": pa.dense_union([pa.field("a", pa.int64())]),
    "interval": pa.month_day_nano_interval(),
    "runs": pa.run_end_encoded(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("kind", REFUSED.values(), ids=REFUSED)
def test_what_parts_cannot_hold_is_refused_by_name(
    tmp_path: Path, tiny_dir: Path, kind: pa.DataType
) -> None:
    table = pa.table(
        {**{name: [text] * 2 for name, text in GOOD.items()}, "odd": pa.nulls(2, kind)}
    )
    with pa.ipc.new_file(tmp_path / "in.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(
        ConfigError, match=r"column 'odd' of .*in\.arrow is .* a \.parquet file cannot hold"
    ):
        run(tiny_dir, tmp_path / "in.arrow", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    out = tmp_path / "out.parquet"
    done = score(tiny_dir, tmp_path / "in.arrow", "--keep-columns", "--output", out)
    assert (done.exit_code, out.exists()) == (2, False)
    assert f"column 'odd' of {tmp_path / 'in.arrow'} is" in done.stderr
    assert score(tiny_dir, tmp_path / "in.arrow").exit_code == 0, "nobody asks for that column"


@pytest.mark.parametrize("levels", [45, 60])
def test_columns_that_are_very_deep_are_refused_by_name(
    tmp_path: Path, tiny_dir: Path, levels: int
) -> None:
    kind = pa.int64()
    for _ in range(levels):
        kind = pa.list_(kind)
    table = pa.table({**{name: [text] for name, text in GOOD.items()}, "deep": pa.nulls(1, kind)})
    with pa.ipc.new_file(tmp_path / "in.arrow", table.schema) as writer:
        writer.write_table(table)
    refused = ""
    try:
        run(tiny_dir, tmp_path / "in.arrow", tmp_path / "out")
        assert pq.read_table(tmp_path / "out").schema.field("deep").type == kind
    except ConfigError as error:
        refused = str(error)
    assert "column 'deep' of " in refused if refused else levels < 50 or OLD_ARROW


@pytest.mark.parametrize("source", ["jsonl", "json", "parquet"])
def test_what_is_not_finite_costs_no_score_and_leaves_as_it_came(
    tmp_path: Path, tiny_dir: Path, source: str
) -> None:
    rows = [{**GOOD, "n": n, "in": {"list": [n, 1.0]}} for n in (math.nan, math.inf, -math.inf)]
    rows = [*rows, {**GOOD, "n": None, "in": None}]
    path = lines(tmp_path / f"in.{source}", rows)
    if source == "json":
        path.write_text(json.dumps(rows))
    elif source == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    manifest = run(tiny_dir, path, tmp_path / "out")
    assert manifest["num_errors"] == 0
    wanted = repr([(row["n"], row["in"]) for row in rows])
    for ending in ("parquet", "arrow", "jsonl"):
        out = tmp_path / f"out.{ending}"
        assert score(tiny_dir, path, "--keep-columns", "--output", out).exit_code == 0
        assert repr([(row["n"], row["in"]) for row in read(out)]) == wanted
    assert repr([(row["n"], row["in"]) for row in read(tmp_path / "out")]) == wanted
    assert pq.read_table(tmp_path / "out")["n"].type == pa.float64()


def test_what_is_not_finite_is_kept_in_json_text(tmp_path: Path, tiny_dir: Path) -> None:
    (tmp_path / "in").mkdir()
    texts = {key: [text] * 2 for key, text in GOOD.items()}
    odd = pa.array([math.nan, -math.inf])
    pq.write_table(pa.table({**texts, "odd": odd}), tmp_path / "in" / "a.parquet")
    lines(tmp_path / "in" / "b.jsonl", [{**GOOD, "odd": "x"}, {**GOOD, "odd": [math.nan]}])
    run(tiny_dir, tmp_path / "in", tmp_path / "out")
    found = pq.read_table(tmp_path / "out")["odd"].to_pylist()
    assert found == ["NaN", "-Infinity", '"x"', "[NaN]"]
    assert repr([row["odd"] for row in read(tmp_path / "out")]) == "[nan, -inf, 'x', [nan]]"


@pytest.mark.parametrize("line", ['"n": NaN, "t": "\\ud800"', '"n": NaN, "m": 1e999', '"n": NaN,'])
def test_python_json_is_read_as_strictly_as_other_json(
    tmp_path: Path, tiny_dir: Path, line: str
) -> None:
    text = json.dumps(GOOD)[:-1] + ", " + line + "}\n" + json.dumps(GOOD) + "\n"
    (tmp_path / "in.jsonl").write_text(text)
    manifest = run(tiny_dir, tmp_path / "in.jsonl", tmp_path / "out")
    assert manifest["errors"] == {"not_an_object": 1}


MARKED = {"odd": pa.string(), "n": pa.int64()}


def test_a_strangers_mark_of_json_text_makes_no_value_of_what_is_none(
    tmp_path: Path, tiny_dir: Path
) -> None:
    """Others may write the metadata by which a column says that it holds JSON text."""
    mark = {"polar_ray.json": "1"}
    texts = {key: [text] * 3 for key, text in GOOD.items()}
    values = ["no {JSON", None, "5"]
    fields = [pa.field(key, pa.string()) for key in texts]
    fields += [pa.field(key, kind, metadata=mark) for key, kind in MARKED.items()]
    table = pa.table({**texts, "odd": values, "n": [1, None, 3]}, schema=pa.schema(fields))
    pq.write_table(table, tmp_path / "in.parquet")
    run(tiny_dir, tmp_path / "in.parquet", tmp_path / "out")
    found = pq.read_table(tmp_path / "out")
    assert (found["odd"].to_pylist(), found["n"].to_pylist()) == (values, [1, None, 3])
    for ending, five, n in (("jsonl", 5, 1), ("csv", "5", "1")):
        out = tmp_path / f"out.{ending}"
        done = score(tiny_dir, tmp_path / "in.parquet", "--keep-columns", "--output", out)
        assert done.exit_code == 0, done.output
        assert [row["odd"] for row in read(out)] == ["no {JSON", None, five]
        assert read(out)[0]["n"] == n


def test_files_of_arrow_that_would_change_each_other_are_refused(
    tmp_path: Path, tiny_dir: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name, column in (("a", pa.array([1])), ("b", pa.array([0.5]))):
        table = pa.table({**{key: [text] for key, text in GOOD.items()}, "n": column})
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet")
    with pytest.raises(ConfigError, match=r"'n' is int64 in .*a\.parquet .* become double"):
        run(tiny_dir, tmp_path / "in", tmp_path / "out")
    small = table.set_column(3, "n", pa.array([1], pa.int32()))
    pq.write_table(small, tmp_path / "in" / "a.parquet")
    run(tiny_dir, tmp_path / "in", tmp_path / "out")
    assert pq.read_table(tmp_path / "out")["n"].to_pylist() == [1, 0.5]
    for narrow, wide in (
        (pa.array([Decimal("1.2")]), pa.array([0.5])),
        (pa.array(["x"]), pa.array([b"x"])),
    ):
        for name, column in (("a", narrow), ("b", wide)):
            odd = table.set_column(3, "n", column)
            pq.write_table(odd, tmp_path / "in" / f"{name}.parquet")
        with pytest.raises(ConfigError, match=r"'n' is .* in .*a\.parquet and elsewhere"):
            run(tiny_dir, tmp_path / "in", tmp_path / "odd")


@pytest.mark.parametrize("group", ["never", "always"])
def test_categories_leave_as_their_values(tmp_path: Path, tiny_dir: Path, group: str) -> None:
    """Those of all files together are more than indices of 8 bits can tell apart."""
    (tmp_path / "in").mkdir()
    for file in range(6):
        names = pa.array([f"{file}-{n}" for n in range(40)])
        indices = pa.array(range(40), pa.int8())
        texts = {key: [text] * 40 for key, text in GOOD.items()}
        kinds = pa.DictionaryArray.from_arrays(indices, names)
        within = pa.ListArray.from_arrays(list(range(41)), kinds)
        table = pa.table({**texts, "kind": kinds, "within": within})
        pq.write_table(table, tmp_path / "in" / f"{file}.parquet")
    run(tiny_dir, tmp_path / "in", tmp_path / "out", group=group, rows_per_part=100)
    found = pq.read_table(tmp_path / "out")
    wanted = sorted(f"{file}-{n}" for file in range(6) for n in range(40))
    assert sorted(found["kind"].to_pylist()) == wanted
    assert sorted(found["within"].to_pylist()) == [[name] for name in wanted]


def test_rows_with_ever_new_columns_are_refused(
    tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polar_ray.data.kinds.MOST_COLUMNS", 10)
    lines(tmp_path / "in.jsonl", [{**GOOD, f"key {n}": n} for n in range(9)])
    with pytest.raises(JobStopped, match=r"in\.jsonl .*more than 10 columns, such as 'key 7'"):
        run(tiny_dir, tmp_path / "in.jsonl", tmp_path / "out")
