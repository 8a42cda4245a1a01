"""Other people's schemas become records."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.data.columns import Columns, choose, joined
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


def test_a_message_without_content_is_an_error_of_its_row() -> None:
    rows = [say("a", None), say(), None, say("b", "c")]
    table = pa.table({"prompt": pa.array(rows, MESSAGES), "reference": ["r"] * 4}).append_column(
        "output", [["o"] * 4]
    )
    mapped = choose(table.schema, NOTHING).apply(table)
    assert mapped.table["prompt"].to_pylist() == [None, "", None, "b\nc"]
    assert list(mapped.errors) == [0]
    assert mapped.errors[0].startswith("bad_message: ")


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_every_kind_of_string_is_text(kind: pa.DataType) -> None:
    column = pa.array(["a", None], pa.string()).cast(kind)
    table = pa.table({"prompt": column, "reference": column, "output": column})
    mapped = choose(table.schema, NOTHING).apply(table)
    assert mapped.table["output"].to_pylist() == ["a", None]


messages = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=5)}), max_size=4
)


@given(st.lists(st.none() | messages, max_size=8), st.integers(0, 3))
def test_messages_are_joined_as_records_join_them(
    rows: list[list[dict[str, str]] | None], skip: int
) -> None:
    # Slices, whose offsets do not begin at zero, are the ones that go wrong.
    texts, bad = joined(pa.array(rows, MESSAGES)[skip:])
    assert not bad.any()
    for text, row in zip(texts.to_pylist(), rows[skip:], strict=True):
        if row is None:
            assert text is None
        else:
            batch = to_batch([{"prompt": row, "reference": "", "output": ""}])
            assert text == batch.table["prompt"][0].as_py()
