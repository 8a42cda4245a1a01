"""Records to Arrow and back: bad rows are data, bad batches are errors, results keep a contract."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import BAD_ROWS, records

from polar_ray.errors import RecordError
from polar_ray.records import (
    ROW_ERRORS,
    SCORE_SCHEMA,
    Record,
    Trajectories,
    check_scores,
    check_table,
    empty_scores,
    poisoned_scores,
    provenance,
    score_table,
    to_batch,
    with_row_errors,
)


def test_only_tables_say_that_a_text_is_whole() -> None:
    """What a client has cut by itself is not cut again; nobody says so of a record."""
    made = to_batch([Trajectories("p\nr", "p\no")])
    assert made.table.to_pylist() == [
        {"prompt": "", "reference": "p\nr", "output": "p\no", "wrapper": "whole"}
    ]
    assert to_batch(made.table) == made
    said = to_batch([{"prompt": "", "reference": "r", "output": "o", "wrapper": "whole"}])
    assert said.errors[0].startswith("bad_wrapper")


def scores_of(values: list[float], errors: list[str | None] | None = None) -> pa.Table:
    rows = len(values)
    return score_table(
        np.array(values, dtype=np.float32),
        errors or [None] * rows,
        truncated=[False] * rows,
        num_tokens=[1] * rows,
        control_text=[False] * rows,
        provenance={"engine": "test"},
    )


@given(st.lists(records))
def test_texts_pass_unchanged(rows: list[dict[str, str]]) -> None:
    batch = to_batch(rows)
    assert not batch.errors
    assert batch.table.to_pylist() == rows
    assert to_batch([Record(**row) for row in rows]).table == batch.table


def test_messages_become_their_contents_joined_by_newlines() -> None:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    table = to_batch([Record(prompt, "4", [{"content": "four"}])]).table
    assert table.to_pylist() == [{"prompt": "Be brief.\n2+2?", "reference": "4", "output": "four"}]


@pytest.mark.parametrize(("row", "code"), BAD_ROWS, ids=lambda value: repr(value)[:40])
def test_a_bad_row_is_an_error_of_its_own(row: object, code: str) -> None:
    good = {"prompt": "p", "reference": "r", "output": "o"}
    batch = to_batch([good, row, good])
    assert list(batch.errors) == [1]
    assert batch.errors[1].startswith(f"{code}: ")
    assert code in ROW_ERRORS
    assert batch.table.slice(0, 1).to_pylist() == batch.table.slice(2, 1).to_pylist()
    assert batch.table["prompt"].to_pylist() == ["p", None, "p"]


@pytest.mark.parametrize("batch", ["text", b"bytes", 5, None, {"prompt": "p"}])
def test_what_is_no_batch_is_refused(batch: object) -> None:
    with pytest.raises(RecordError, match="list of records or an Arrow table"):
        to_batch(batch)  # type: ignore[arg-type]


def test_an_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(RecordError, match="'answer' in record 1"):
        to_batch([Record("p", "r", "o"), {"prompt": "p", "answer": "a"}])


@pytest.mark.parametrize("ids", [[1, "a"], [1.5, 2], [{}, {}], [2**70, 1]], ids=repr)
def test_ids_of_mixed_or_odd_types_are_refused(ids: list[object]) -> None:
    row = {"prompt": "p", "reference": "r", "output": "o"}
    with pytest.raises(RecordError, match="ids must"):
        to_batch([{**row, "id": value} for value in ids])


def request(**columns: object) -> pa.Table:
    values = {"prompt": ["p"], "reference": ["r"], "output": ["o"], **columns}
    return pa.table({k: v for k, v in values.items() if v is not None})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (request(answer=["a"]), "unknown column.*'answer'"),
        (request(output=None), "missing column.*output"),
        (request(output=[1]), "output is int64"),
        (request(output=[["o"]]), "output is list"),
        (request(id=[1.5]), "id is double"),
    ],
)
def test_a_table_with_wrong_columns_is_refused(table: pa.Table, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        check_table(table)


def test_other_string_types_and_chunks_become_plain_strings() -> None:
    column = pa.chunked_array([["a"], ["b", None]]).cast(pa.large_string())
    codes = pa.chunked_array([["a"], ["b", None]]).dictionary_encode()
    table = pa.table({"prompt": column, "reference": codes, "output": pa.nulls(3), "id": [1, 2, 3]})
    checked = check_table(table)
    assert [f.type for f in checked.schema] == [pa.string()] * 3 + [pa.int64()]
    assert checked["prompt"].num_chunks == 1
    assert checked.to_pylist() == table.to_pylist()


def test_invalid_utf8_is_refused_before_it_is_read() -> None:
    broken = pa.StringArray.from_buffers(
        1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")
    )
    with pytest.raises(RecordError, match="does not validate"):
        check_table(request(output=broken))


def test_offsets_beyond_the_buffer_are_refused() -> None:
    broken = pa.StringArray.from_buffers(
        2, pa.array([0, 2**30, 2], pa.int32()).buffers()[1], pa.py_buffer(b"ab")
    )
    with pytest.raises(RecordError, match="does not validate"):
        check_table(pa.table(dict.fromkeys(("prompt", "reference", "output"), broken)))


floats = st.floats(width=32) | st.sampled_from([float("nan"), float("inf"), -float("inf")])


@given(st.lists(st.tuples(floats, st.none() | st.just("engine_error: x"))))
def test_a_row_has_a_finite_score_or_an_error(rows: list[tuple[float, str | None]]) -> None:
    values, errors = [value for value, _ in rows], [error for _, error in rows]
    table = check_scores(scores_of(values, errors), len(rows))
    for row, value, error in zip(table.to_pylist(), values, errors, strict=True):
        if error is None and np.isfinite(value):
            assert row["score"] == np.float32(value)
            assert row["error"] is None
        else:
            assert row["score"] is None
            assert row["error"] == error or row["error"].startswith("nonfinite_score: ")


def test_provenance_is_kept_in_the_metadata() -> None:
    assert provenance(scores_of([1.0])) == {"engine": "test"}
    assert provenance(empty_scores({"engine": "x"})) == {"engine": "x"}


def test_the_result_of_a_record_that_is_given_up_keeps_the_contract() -> None:
    result = poisoned_scores({"model_digest": "d"})
    assert check_scores(result, 1)["error"][0].as_py().startswith("poison: ")
    assert provenance(result) == {"model_digest": "d"}


def test_row_errors_of_parsing_take_the_place_of_the_scorers() -> None:
    table = scores_of([1.0, np.nan], [None, "null_field: x"])
    changed = with_row_errors(table, {1: "not_an_object: y"})
    assert changed["error"].to_pylist() == [None, "not_an_object: y"]
    assert changed.schema.equals(table.schema, check_metadata=True)


def replaced(name: str, values: list[object]) -> pa.Table:
    """A good result of two rows with one column's values exchanged."""
    at = SCORE_SCHEMA.get_field_index(name)
    column = pa.array(values, SCORE_SCHEMA.field(at).type)
    return scores_of([1.0, 2.0]).set_column(at, SCORE_SCHEMA.field(at), column)


@pytest.mark.parametrize(
    "broken",
    [
        scores_of([1.0]),
        scores_of([1.0, 2.0]).rename_columns(["value", *SCORE_SCHEMA.names[1:]]),
        replaced("score", [1.0, None]),
        replaced("score", [1.0, np.inf]),
        replaced("error", [None, "both"]),
    ],
    ids=["short", "columns", "neither", "infinite", "both"],
)
def test_a_result_that_breaks_the_contract_is_found(broken: pa.Table) -> None:
    with pytest.raises(ValueError, match=r"result|score"):
        check_scores(broken, 2)


def test_a_column_name_that_is_no_text_is_a_record_error() -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"prompt": ["p"], "reference": ["r"], "output": ["o"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = bytes(sink.getvalue()).replace(b"output", b"out\xffut")
    with pytest.raises(RecordError, match="name is not UTF-8"):
        check_table(pa.ipc.open_stream(body).read_all())


def test_a_dictionary_of_ids_becomes_ids() -> None:
    ids = pa.array([7, 7]).dictionary_encode()
    texts = ["a", "b"]
    table = pa.table({"prompt": texts, "reference": texts, "output": texts, "id": ids})
    assert check_table(table)["id"].type == pa.int64()


class Frame:
    """A data frame as polars and pandas have them: its iteration gives columns."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.column_names)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def test_a_data_frame_is_a_table_and_not_its_columns() -> None:
    texts = pa.array(["a", "b"], pa.string_view())
    frame = Frame(pa.table({"prompt": texts, "reference": texts, "output": texts}))
    batch = to_batch(frame)  # type: ignore[arg-type]
    assert batch.table.column("output").to_pylist() == ["a", "b"]
    assert batch.table.schema.field("prompt").type == pa.string()
    with pytest.raises(RecordError, match="ChunkedArray does not become an Arrow table"):
        to_batch(pa.chunked_array([["text"]]))
