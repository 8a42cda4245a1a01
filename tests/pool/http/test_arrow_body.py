"""Bodies that stand for more than they hold are refused before they are unpacked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.config import HttpConfig
from polar_ray.errors import RecordError, TooLarge
from polar_ray.pool.http.arrow_body import MAX_BATCHES, decode_arrow
from polar_ray.records import check_table
from polar_ray.stream import encode_arrow

LIMITS = HttpConfig(max_body_bytes=1_000_000, max_rows=1000)
PLAIN = pa.table({"prompt": ["p", "q"], "reference": ["r", None], "output": ["o", ""]})


def stream(table: pa.Table, **options: Any) -> bytes:
    """An IPC stream with other options than `encode_arrow`'s."""
    sink = pa.BufferOutputStream()
    chosen = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, table.schema, options=chosen) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def with_prompt(column: Any) -> pa.Table:
    texts = pa.array(["x"] * len(column))
    return pa.table({"prompt": column, "reference": texts, "output": texts})


def repeated(text: str, times: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(times, dtype=np.int8), [text])


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_streams_are_read_up_to_the_limit(compression: str) -> None:
    small = stream(PLAIN, compression=compression)
    assert decode_arrow(small, LIMITS).equals(PLAIN)
    bomb = stream(with_prompt(["\0" * 50_000_000]), compression=compression)
    assert len(bomb) < LIMITS.max_body_bytes
    with pytest.raises(TooLarge, match="unpacks to 50000"):
        decode_arrow(bomb, LIMITS)
    packed = with_prompt(pa.array(["\0" * 50_000_000]).dictionary_encode())
    with pytest.raises(TooLarge, match="unpacks to 50000"):
        decode_arrow(stream(packed, compression=compression), LIMITS)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_dictionary_counts_as_the_text_that_it_spells(kind: pa.DataType) -> None:
    encoded = pa.array(["x"] * 5 + [None]).cast(kind).dictionary_encode()
    table = check_table(decode_arrow(encode_arrow(with_prompt(encoded)), LIMITS))
    assert table["prompt"].to_pylist() == ["x"] * 5 + [None]
    bomb = repeated("x" * 100_000, 100).cast(pa.dictionary(pa.int8(), kind))
    with pytest.raises(TooLarge, match="unpacks to 10000000 bytes"):
        decode_arrow(encode_arrow(with_prompt(bomb)), LIMITS)


def test_views_of_strangers_are_refused() -> None:
    body = encode_arrow(with_prompt(pa.array(["x", None], pa.string_view())))
    with pytest.raises(RecordError, match="string_view; it must be a string column"):
        check_table(decode_arrow(body, LIMITS))


def test_rows_that_take_no_bytes_are_counted() -> None:
    nothing = pa.table({name: pa.nulls(10**9) for name in ("prompt", "reference", "output")})
    body = encode_arrow(nothing)
    assert len(body) < 1000
    with pytest.raises(TooLarge, match="1000000000 records are over"):
        decode_arrow(body, LIMITS)


def batches(table: pa.Table, times: int) -> bytes:
    """A stream of the same batch many times, with a dictionary that stands in it once."""
    sink = pa.BufferOutputStream()
    [batch] = table.to_batches()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_batch(batch)
        first = sink.tell()
        writer.write_batch(batch)
        length = sink.tell() - first
    body = bytes(sink.getvalue())
    return body[:first] + body[first : first + length] * (times - 1) + body[-8:]


def test_many_batches_become_one_chunk() -> None:
    table = check_table(decode_arrow(batches(PLAIN, 400), LIMITS))
    assert (table.num_rows, table["prompt"].num_chunks) == (800, 1)


def test_batches_are_counted_though_they_are_empty() -> None:
    nothing = pa.table({name: pa.array([], pa.string()) for name in PLAIN.column_names})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, nothing.schema) as writer:
        for _ in range(MAX_BATCHES + 1):
            writer.write_batch(pa.RecordBatch.from_pylist([], schema=nothing.schema))
    large = HttpConfig()
    with pytest.raises(TooLarge, match=f"over {MAX_BATCHES} batches"):
        decode_arrow(bytes(sink.getvalue()), large)


def test_a_dictionary_that_every_batch_repeats_is_counted() -> None:
    """Each batch's dictionary is validated: of one million words for ten thousand batches, that
    took minutes."""
    words = pa.array([f"word {i}" for i in range(50_000)])
    coded = pa.DictionaryArray.from_arrays(np.zeros(1, dtype=np.int32), words)
    body = batches(with_prompt(coded), 5)
    assert check_table(decode_arrow(body, LIMITS))["prompt"].to_pylist() == ["word 0"] * 5
    body = batches(with_prompt(coded), 900)
    assert len(body) < LIMITS.max_body_bytes * 2
    with pytest.raises(TooLarge, match="repeat dictionaries"):
        decode_arrow(body, LIMITS)


def test_a_schema_of_many_fields_is_refused() -> None:
    fields = [pa.field(f"column {i:050}", pa.null()) for i in range(20_000)]
    with pytest.raises(TooLarge, match="schema is over 1048576 bytes"):
        decode_arrow(encode_arrow(pa.schema(fields).empty_table()), HttpConfig())
    noted = PLAIN.replace_schema_metadata({"pandas": "x" * 100_000})
    assert decode_arrow(encode_arrow(noted), LIMITS).num_rows == 2


def test_a_stream_of_arrow_before_1_is_refused() -> None:
    old = stream(PLAIN, metadata_version=pa.ipc.MetadataVersion.V4)
    with pytest.raises(RecordError, match="not V5"):
        decode_arrow(old, LIMITS)


BODIES = [
    encode_arrow(PLAIN),
    stream(PLAIN, compression="zstd"),
    stream(PLAIN, compression="lz4"),
    encode_arrow(with_prompt(repeated("word", 9))),
    encode_arrow(with_prompt(pa.array(["short", "x" * 40, None], pa.string_view()))),
]


@settings(max_examples=300)
@given(st.sampled_from(BODIES), st.integers(min_value=0), st.integers(0, 255))
def test_a_damaged_stream_is_a_record_error_or_a_table(body: bytes, at: int, value: int) -> None:
    damaged = bytearray(body)
    damaged[at % len(body)] = value
    try:
        table = check_table(decode_arrow(bytes(damaged), LIMITS))
    except RecordError:
        return
    table.to_pylist()
