"""Bodies of several lists: read as a JSON decoder reads them, a few items at a time."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.config import HttpConfig
from polar_ray.errors import RecordError, TooLarge
from polar_ray.pool.http import json_items, json_scan
from polar_ray.pool.http.object_body import JsonObject, read_object
from polar_ray.records import Unread

LIMITS = HttpConfig(max_rows=1000)

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
bodies = st.dictionaries(st.text(max_size=5), values, max_size=6)


def read(body: bytes, limits: HttpConfig = LIMITS) -> JsonObject:
    return read_object(body, limits, 1 << 20)


@given(bodies, st.integers(1, 40), st.booleans())
def test_it_is_the_object_that_the_body_spells(
    body: dict[str, Any], window: int, ascii_only: bool
) -> None:
    encoded = json.dumps(body, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "WINDOW_BYTES", window)
        patch.setattr(json_items, "SLICE_BYTES", window)
        found = read(encoded)
        assert {key: found.value(key) for key in found.values} == body
        for key, value in body.items():
            if isinstance(value, list):
                assert found.values[key] == []
                assert found.count(key) == len(value)
                assert list(found.items(key)) == list(found.items(key)) == value


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"5", b"[[1]]", b"{", b'{"a": [1', b'{"a": [1}', b'{"a": 1} x', b"{'a': 1}"],
)
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(RecordError):
        read(body)


@pytest.mark.parametrize(
    "body", [b'{"a": 1, "a": 2}', b'{"a": [1], "a": ["x"]}', b'{"a":[],"a":1}']
)
def test_a_key_stands_once(body: bytes) -> None:
    with pytest.raises(RecordError, match="each key stands once"):
        read(body)


def test_lists_are_bounded() -> None:
    few = HttpConfig(max_rows=3)
    assert list(read(b'{"a": [1,2,3], "b": [4,5,6]}', few).items("b")) == [4, 5, 6]
    with pytest.raises(TooLarge, match="max_rows=3"):
        read(b'{"a": [1], "b": [1,2,3,4]}', few)
    many = orjson.dumps({str(number): [] for number in range(20)})
    with pytest.raises(RecordError, match="at most 8 lists"):
        read(many)


def test_what_is_no_text_is_not_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "MAX_MARKS", 50)
    found = read(orjson.dumps({"a": ["x", [[]] * 100, "y"]}))
    first, second, third = found.items("a")
    assert (first, third) == ("x", "y")
    assert isinstance(second, Unread)
