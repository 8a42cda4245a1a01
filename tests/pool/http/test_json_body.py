"""JSON bodies: what is decoded, record by record, and that little of a hostile one ever is."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from fuzz.hostile import hostile_bodies
from hypothesis import given
from hypothesis import strategies as st
from sample_records import BAD_ROWS, GROUPS, records

from polar_ray.config import HttpConfig
from polar_ray.errors import RecordError, TooLarge
from polar_ray.pool.http import json_body, json_items, json_scan
from polar_ray.pool.http.json_body import decode_json, encode_json
from polar_ray.pool.http.json_scan import TooMany, scan
from polar_ray.records import Batch, score_table, to_batch

LIMITS = HttpConfig(max_rows=1000)
FIELD_BYTES = 1 << 20
RECORD = {"prompt": "p", "reference": "r", "output": "o"}
GOOD = orjson.dumps(RECORD)


def decode(body: bytes, max_field_bytes: int = FIELD_BYTES) -> Batch:
    return decode_json(body, LIMITS, max_field_bytes)


@pytest.fixture(params=[1, 7, 1 << 16], ids=["windows of 1", "windows of 7", "whole"])
def small_windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every boundary falls between any two bytes once."""
    monkeypatch.setattr(json_scan, "WINDOW_BYTES", request.param)
    monkeypatch.setattr(json_items, "SLICE_BYTES", request.param)


AWKWARD = [
    {**RECORD, "prompt": 'she said: "[],{}:" and \\'},
    {**RECORD, "prompt": "\\" * 9},
    {**RECORD, "prompt": '\\"' * 5 + "\\"},
    {**RECORD, "prompt": "a\n\u2028\ud7ff\U0001f600"},
    {**RECORD, "prompt": [{"role": "user", "content": "a,b"}, {"content": "c"}]},
    {**RECORD, "prompt": "", "output": ""},
    {**RECORD, "wrapper": "pretrain"},
]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_body_is_the_records_that_it_spells(ascii_only: bool, indent: int | None) -> None:
    rows: list[Any] = [*GROUPS, *AWKWARD, *AWKWARD]
    body = json.dumps({"records": rows}, ensure_ascii=ascii_only, indent=indent).encode()
    assert decode(body) == to_batch(rows)


@pytest.mark.usefixtures("small_windows")
def test_single_bad_records_are_errors_of_their_rows() -> None:
    bad = [row for row, _ in BAD_ROWS if _is_json(row)]
    rows = [RECORD, *bad, None, 5, "text", [], [[]], {}, True, RECORD]
    batch = decode(orjson.dumps({"records": rows}))
    assert batch == to_batch(rows)
    assert set(batch.errors) == set(range(1, len(rows) - 1))


def _is_json(row: Any) -> bool:
    try:
        orjson.dumps(row)
    except TypeError:
        return False
    return True


@given(st.lists(records, max_size=8), st.integers(1, 40))
def test_windows_and_slices_change_nothing(rows: list[dict[str, str]], size: int) -> None:
    body = orjson.dumps({"records": rows})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "WINDOW_BYTES", size)
        patch.setattr(json_items, "SLICE_BYTES", size)
        assert decode(body) == to_batch(rows)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("body", [b'{"records":[]}', b' { "records" : [ \n ] } '])
def test_no_records_are_an_empty_batch(body: bytes) -> None:
    assert decode(body).table.num_rows == 0


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"[", "not JSON"),
        (b'{"records":[', "not JSON"),
        (b'{"records":[{"prompt":"', "not JSON"),
        (b'{"records":[%b]' % GOOD, "not JSON"),
        (b'{"records":[%b}]' % GOOD, "not JSON"),
        (b'{"records":[%b]]' % GOOD, "not JSON"),
        (b'{"records":[%b]}}' % GOOD, "not JSON"),
        (b'{"records":[%b}}' % GOOD, "not JSON"),
        (b'{"records":[%b,]}' % GOOD, "not JSON"),
        (b'{"records":[,%b]}' % GOOD, "not JSON"),
        (b'{"records":[%b,,%b]}' % (GOOD, GOOD), "not JSON"),
        (b'{"records":[%b %b]}' % (GOOD, GOOD), "not JSON"),
        (b'{"records":[%b\\,%b]}' % (GOOD, GOOD), "not JSON"),
        (b'{"records":[%b,\\"]}' % GOOD, "not JSON"),
        (b'{"records":[NaN]}', "not JSON"),
        (b'{"records":["\xff"]}', "not JSON in UTF-8"),
        (b'\xef\xbb\xbf{"records":[]}', "not JSON"),
        ('{"records":[]}'.encode("utf-16"), "not JSON"),
        (b'{"records":[' + b"[" * 2000 + b"]" * 2000 + b"]}", "not JSON|nests too deeply"),
        (b"null", "must be an object"),
        (b"[[1,2],[3]]", "must be an object"),
        (b'{"records":{"a":[1]}}', "must be an object"),
        (b'{"records":5}', "must be an object"),
        (b'{"a":[1],"b":2}', "must be an object"),
        (b'{"a":[1],"records":[2]}', r"unknown key\(s\) \['a'\]"),
        (b'{"records":[2],"a":[1]}', r"unknown key\(s\) \['a'\]"),
        (b'{"records":[1],"records":[2]}', "'records' more than once"),
        (b'{"records":[1],"\\u0072ecords":[2]}', "'records' more than once"),
        (b'{"records":[], "' + b"k" * 9_000 + b'": 1}', "unknown key"),
        (b'{"records":[{"prompt":"p","x":1}]}', "'x' in record 0"),
        (b'{"records":[%b,{"prompt":"p","x":1}]}' % GOOD, "'x' in record 1"),
        (b'{"records":[{"id":1.5}]}', "ids must all be .* record 0 is float"),
        (b'{"records":[%b,{"id":[]}]}' % GOOD, "ids must all be .* record 1 is list"),
        (b'{"records":[{"id":1},{"id":"a"}]}', "ids must all be"),
        (b'{"records":[%b],"timeout_s":5}' % GOOD, "unknown key.*timeout_s"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_body_that_is_no_batch_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        decode(body)
    assert len(str(caught.value)) < 500


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (rb'"bad \udc80 byte"', "bad_text: prompt holds a lone surrogate at character 4"),
        (rb'[{"content":"\ud800"}]', "bad_text"),
        (b"1e999", "bad_message: prompt is float"),
        (b"-1e999", "bad_message: prompt is float"),
        (b"1" * 400, "bad_message: prompt is float"),
        (b"1" * 5000, "bad_message: prompt is float"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_json_that_nobody_can_hold_is_an_error_of_its_row(prompt: bytes, says: str) -> None:
    bad = b'{"prompt":%b,"reference":"r","output":"o","id":5}' % prompt
    batch = decode(b'{"records":[%b]}' % b",".join([GOOD] * 7 + [bad] + [GOOD] * 2))
    assert batch.table["prompt"].to_pylist() == ["p"] * 7 + [None] + ["p"] * 2
    assert batch.table["id"].to_pylist() == [None] * 7 + [5] + [None] * 2
    assert list(batch.errors) == [7]
    assert batch.errors[7].startswith(says)


def test_half_a_surrogate_pair_elsewhere_is_told_in_text_that_can_be_sent() -> None:
    wrapped = rb'{"prompt":"p","reference":"r","output":"o","wrapper":"\ud800"}'
    [error] = decode(b'{"records":[%b]}' % wrapped).errors.values()
    assert error.encode().startswith(b"bad_wrapper")
    for key, value in ((rb"\ud800", b"1"), (b"id", rb'"\ud800"')):
        with pytest.raises(RecordError) as caught:
            decode(b'{"records":[{"%b":%b}]}' % (key, value))
        assert str(caught.value).encode()


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("bad", [b"NaN", b"-Infinity", b'"\xff"', b'"\x01"', b"01", b'{"a":1,}'])
def test_a_record_that_is_no_json_is_named(bad: bytes) -> None:
    with pytest.raises(RecordError, match="record 7 is not JSON in UTF-8"):
        decode(b'{"records":[%b]}' % b",".join([GOOD] * 7 + [bad] + [GOOD] * 2))


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    "twice",
    [
        b'{"prompt":"p","reference":"r","output":"o","output":"DIFFERENT"}',
        rb'{"prompt":"p","reference":"r","output":"o","\u006futput":"o"}',
        b'{"prompt":[{"content":"a"},{"content":"b","content":"c"}],"reference":"r","output":"o"}',
        rb'{"prompt":"\ud800","prompt":"p","reference":"r","output":"o"}',
    ],
)
def test_a_key_that_stands_twice_in_a_record_is_an_error_of_its_row(twice: bytes) -> None:
    spoken = b'{"prompt":[{"content":[{"text":"p"},{"text":"p"}]}],"reference":"r","output":"o"}'
    batch = decode(b'{"records":[%b,%b ,%b]}' % (GOOD, twice, spoken))
    assert batch.table["prompt"].to_pylist() == ["p", None, "p\np"]
    assert batch.errors == {1: "repeated_key: an object in the record has a key twice"}


def test_ids_may_be_of_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polar_ray.records.BLOCK_CHARS", 1)
    ids = [1, -1, None, 1 << 40]
    batch = decode(orjson.dumps({"records": [{**RECORD, "id": i} for i in ids]}))
    assert batch.table["id"].to_pylist() == ids
    assert batch.table["id"].num_chunks == 1
    with pytest.raises(RecordError, match="ids must all be"):
        decode(orjson.dumps({"records": [{**RECORD, "id": i} for i in (1, None, "1")]}))


def test_records_are_counted_before_they_are_decoded() -> None:
    body = b'{"records":[' + b",".join([b"0"] * 1000) + b"]}"
    assert decode(body).table.num_rows == 1000
    with pytest.raises(TooLarge, match=r"over http\.max_rows=1000 records"):
        decode(body.replace(b"[", b"[0,"))
    with pytest.raises(TooMany):
        scan(b'{"records":[' + b"0," * 1000 + b"nonsense", 1000)


def test_a_record_of_too_many_values_is_an_error_of_its_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_items, "MAX_MARKS", 100)
    spoken = {**RECORD, "prompt": [{"content": ""}] * 100}
    batch = decode(orjson.dumps({"records": [RECORD, spoken, RECORD]}))
    assert batch.table["prompt"].to_pylist() == ["p", None, "p"]
    assert list(batch.errors) == [1]
    assert re.match("bad_message: the record has [0-9]+ values or more", batch.errors[1])


def test_a_record_that_no_fields_fill_is_an_error_of_its_row() -> None:
    large = {**RECORD, "prompt": "\x01" * 300_000}
    batch = decode(orjson.dumps({"records": [large, RECORD]}), max_field_bytes=1000)
    assert batch.table["prompt"].to_pylist() == [None, "p"]
    assert batch.errors[0].startswith("field_too_large: the record has 1800")
    batch = decode(orjson.dumps({"records": [large, RECORD]}), max_field_bytes=300_000)
    assert not batch.errors, "every byte may take six"


@pytest.mark.parametrize("name", hostile_bodies(0))
def test_little_is_made_of_a_hostile_body(name: str) -> None:
    """The memory that Python takes, beside Arrow's, which holds what text there is. (orjson asks
    for twelve times its input, but touches only what it has values for.)"""
    body = hostile_bodies(3 << 19)[name]()
    tracemalloc.start()
    try:
        decode_json(body, HttpConfig(), 50_000)
    except RecordError:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 24e6, "what a slice becomes, a copy, rows that are errors"


def test_results_are_the_same_by_the_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    table = score_table(
        np.array([0.5, np.nan, -2], np.float32),
        [None, "bad_text: x", None],
        truncated=[False] * 3,
        num_tokens=[1, 0, 3],
        control_text=[False] * 3,
        ids=pa.chunked_array([["a", "b"], ["c"]]),
        provenance={"model": "m"},
    )
    for rows in (1, 2, 3, 4):
        monkeypatch.setattr(json_body, "ROWS_AT_ONCE", rows)
        found = orjson.loads(encode_json(table))
        assert found == {"results": table.to_pylist(), "provenance": {"model": "m"}}
    empty = orjson.loads(encode_json(table.slice(0, 0)))
    assert empty == {"results": [], "provenance": {"model": "m"}}
