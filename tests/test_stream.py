"""Bytes between processes: tables come back as they were, and a changed byte is noticed."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import GROUPS

from polar_ray.errors import RecordError
from polar_ray.stream import check_digest, digest, encode_arrow, read_arrow

TABLE = pa.Table.from_pylist(GROUPS)


def test_a_table_comes_back_with_its_metadata() -> None:
    table = TABLE.replace_schema_metadata({"polar_ray.model": "tiny"})
    assert read_arrow(encode_arrow(table)).equals(table, check_metadata=True)
    part = table.slice(2, 3)
    assert len(encode_arrow(part)) < len(encode_arrow(table)), "only what is in it travels"
    assert read_arrow(encode_arrow(part)).equals(part)


@given(st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    body = bytearray(encode_arrow(TABLE))
    header = digest(bytes(body))
    check_digest(header, bytes(body))
    bit = data.draw(st.integers(0, 8 * len(body) - 1))
    body[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RecordError, match="not what its content-digest says"):
        check_digest(header, bytes(body))


def test_the_header_is_that_of_rfc_9530() -> None:
    # The example of its appendix B.1.
    assert digest(b'{"hello": "world"}\n') == (
        "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    )


def test_other_algorithms_are_passed_over() -> None:
    check_digest(None, b"x")
    check_digest("", b"x")
    check_digest("sha-512=:AAAA=:", b"x")
    check_digest(f"sha-512=:AAAA=:, {digest(b'x')}", b"x")
    with pytest.raises(RecordError):
        check_digest(f"sha-512=:AAAA=:, {digest(b'y')}", b"x")
