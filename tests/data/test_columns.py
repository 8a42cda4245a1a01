"""Other people's schemas become records."""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.data.columns import Columns, choose
from polar_ray.data.rows import Objects
from polar_ray.errors import ConfigError
from polar_ray.records import to_batch

NOTHING: dict[str, str | None] = {}
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def say(*contents: str | None) -> list[dict[str, str | None]]:
    return [{"role": "user", "content": content} for content in contents]


RFT = [
    {
        "data_source": "d",
        "prompt": say("system", "question"),
        "reward_model": {"style": "polar", "ground_truth": say("answer")},
        "extra_info": {"prompt": say("question")},
        "response": "<think>hm\n</think>answer<think>x</think>",
    }
]


def test_usual_names_are_found() -> None:
    table = pa.table({"prompt": ["p"], "reference": ["r"], "output": ["o"], "wrapper": ["sft"]})
    columns = choose(table.schema, NOTHING)
    assert columns == Columns("prompt", "reference", "output", "wrapper")
    assert columns.apply(table).table.to_pylist() == table.to_pylist()


def test_the_projects_own_name_comes_first() -> None:
    schema = pa.schema([(n, pa.string()) for n in ("prompt", "reference", "response", "output")])
    assert choose(schema, NOTHING).output == "output"


def test_verls_responses_are_an_output_where_they_are_text() -> None:
    text = pa.schema([(n, pa.string()) for n in ("prompt", "reference", "responses")])
    assert choose(text, NOTHING).output == "responses"
    with pytest.raises(ConfigError, match=r"which column is the output\? no usual"):
        choose(text.set(2, pa.field("responses", pa.list_(pa.int64()))), NOTHING)
    beside = text.set(2, pa.field("responses", MESSAGES)).append(pa.field("response", pa.string()))
    assert choose(beside, NOTHING).output == "response"


def test_verls_rft_rows_are_known() -> None:
    table = pa.Table.from_pylist(RFT)
    columns = choose(table.schema, NOTHING, strip_think=True)
    assert columns.prompt == "extra_info.prompt"
    mapped = columns.apply(table)
    assert mapped.table.to_pylist() == [
        {"prompt": "question", "reference": "answer", "output": "answer"}
    ]
    assert mapped.errors == {}


def test_paths_name_columns_and_fields() -> None:
    table = pa.table(
        {"question": ["q"], "a.b": ["dotted"], "a": [{"b": "field", "c": "inner"}], "n": [1]}
    )
    mapped = choose(
        table.schema, {"prompt": "question", "reference": "a.b", "output": "a.c"}
    ).apply(table)
    assert mapped.table.to_pylist() == [{"prompt": "q", "reference": "dotted", "output": "inner"}]
    for path, message in [
        ("absent", "no column 'absent'; there are question, a.b, a, a.b, a.c, n"),
        ("a.d", "no field 'a.d'"),
        ("question.x", "no field"),
        ("n", "must be text or a list of messages"),
        ("a", "must be text"),
    ]:
        with pytest.raises(ConfigError, match=message):
            choose(table.schema, {"prompt": "question", "reference": "a.b", "output": path})


def test_names_that_would_not_be_seen_as_one_have_quotes() -> None:
    schema = pa.schema([(name, pa.string()) for name in ("my text", "", "a,b", "c.d", "\u5317")])
    with pytest.raises(ConfigError) as caught:
        choose(schema, NOTHING)
    assert str(caught.value).endswith("There are 'my text', '', 'a,b', c.d, \u5317")
    many = pa.schema([(f"c{n}", pa.string()) for n in range(1000)])
    with pytest.raises(ConfigError, match=r"c48, c49 and 950 more$"):
        choose(many, NOTHING)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["prompt", "reference", "text"], r"which column is the output\? no usual"),
        (["prompt", "reference", "response", "completion"], "response and completion might be it"),
        (["question", "reference", "output"], "say prompt=COLUMN"),
    ],
)
def test_what_is_not_clear_is_asked(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(pa.schema([(name, pa.string()) for name in names]), NOTHING)


def test_all_columns_that_are_missing_are_named_at_once() -> None:
    schema = pa.schema([(name, pa.string()) for name in ("Prompt", "ref", "n")])
    with pytest.raises(ConfigError) as caught:
        choose(schema, {"output": "N"})
    assert str(caught.value) == (
        "which column is the prompt? no usual column is it, but there is Prompt; "
        "say prompt=Prompt; "
        "which column is the reference? no usual column is it; say reference=COLUMN; "
        "no column 'N' (there is n). There are Prompt, ref, n"
    )


def test_a_message_without_content_and_no_messages_are_errors_of_their_rows() -> None:
    rows = [say("a", None), say(), None, say("b", "c")]
    table = pa.table({"prompt": pa.array(rows, MESSAGES), "reference": ["r"] * 4}).append_column(
        "output", [["o"] * 4]
    )
    mapped = choose(table.schema, NOTHING).apply(table)
    assert mapped.table["prompt"].to_pylist() == [None, None, None, "b\nc"]
    assert sorted(mapped.errors) == [0, 1]
    assert all(error.startswith("bad_message: ") for error in mapped.errors.values())


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_every_kind_of_string_is_text(kind: pa.DataType) -> None:
    column = pa.array(["a", None], pa.string()).cast(kind)
    table = pa.table({"prompt": column, "reference": column, "output": column})
    mapped = choose(table.schema, NOTHING).apply(table)
    assert mapped.table["output"].to_pylist() == ["a", None]


texts = st.text(max_size=5)
parts = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["text", "input_text", "image_url", None]),
            "text": st.none() | texts,
        }
    ),
    max_size=3,
)
PARTS = pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))


def rows_of(contents: st.SearchStrategy[object]) -> st.SearchStrategy[list[object]]:
    message = st.none() | st.fixed_dictionaries({"content": st.none() | contents})
    return st.lists(st.none() | st.lists(message, max_size=3), max_size=8)


@pytest.mark.parametrize(
    ("kind", "contents"), [(pa.string(), texts), (PARTS, parts)], ids=["strings", "parts"]
)
@pytest.mark.parametrize("of", [pa.list_, pa.large_list], ids=lambda of: of.__name__)
@given(data=st.data(), skip=st.integers(0, 3))
def test_a_column_is_joined_as_its_values_are(
    kind: pa.DataType, contents: st.SearchStrategy[object], of: Any, data: Any, skip: int
) -> None:
    rows = data.draw(rows_of(contents))
    # Slices, whose offsets do not begin at zero, are the ones that go wrong.
    column = pa.array(rows, of(pa.struct([("content", kind)])))[skip:]
    values = [{"prompt": row, "reference": "r", "output": "o"} for row in rows[skip:]]
    table = pa.table({"prompt": column}).append_column("reference", [["r"] * len(column)])
    table = table.append_column("output", [["o"] * len(column)])
    columns = Columns("prompt", "reference", "output")
    by_column, by_row = columns.apply(table), columns.apply(Objects(values, {}, []))
    assert by_column.table.equals(by_row.table)
    assert by_column.errors == by_row.errors
    batch = to_batch(values)
    assert batch.table["prompt"].to_pylist() == by_row.table["prompt"].to_pylist()
    assert {i: why for i, why in batch.errors.items() if values[i]["prompt"] is not None} == (
        by_row.errors
    )


def test_json_rows_may_differ_in_their_kinds() -> None:
    rows = Objects()
    for prompt in ("p", say("p"), [{"content": [{"type": "text", "text": "p"}]}], 5, None):
        rows.add(orjson.dumps({"prompt": prompt, "a": {"b": "r"}, "output": "o", "w": 1}), "here")
    rows.add(b'{"output": "o"}', "here")
    rows.add(b'{"output": ', "line 7 of f")
    batch = Columns("prompt", "a.b", "output", "w").apply(rows)
    assert batch.table["prompt"].to_pylist() == ["p", "p", "p", None, None, None, None]
    codes = {i: text.partition(":")[0] for i, text in batch.errors.items()}
    assert codes == {
        0: "bad_wrapper", 1: "bad_wrapper", 2: "bad_wrapper", 3: "bad_message", 4: "bad_wrapper",
        6: "not_an_object",
    }  # fmt: skip
    assert "line 7 of f is not JSON" in batch.errors[6]
