"""Mutated bodies: whatever comes in, the answer is a table or one of this project's 4xx errors."""

from __future__ import annotations

import os
import random

import pyarrow as pa
import pytest
from examples import GROUPS

from polar_ray.config import HttpConfig
from polar_ray.errors import HTTP_STATUS, RecordError
from polar_ray.pool.wire import decode_arrow, decode_json
from polar_ray.records import check_table, to_batch
from polar_ray.stream import encode_arrow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LIMITS = HttpConfig(max_body_bytes=1 << 20, max_rows=1000)
STREAMS = int(os.environ.get("FUZZ_STREAMS", "100000"))
BODIES = int(os.environ.get("FUZZ_BODIES", "20000"))
EDGES = (0, 1, 2, 3, 0x7F, 0x80, 0xFE, 0xFF)


def seeds() -> list[bytes]:
    """Streams of several column types and compressions."""
    table = pa.Table.from_pylist(GROUPS)
    wide = table.cast(pa.schema([(name, pa.large_string()) for name in table.column_names]))
    coded = table.set_column(0, "prompt", table["prompt"].dictionary_encode())
    nulls = table.set_column(2, "output", pa.nulls(table.num_rows))
    numbered = table.append_column("id", pa.array(range(table.num_rows)))
    plain = [encode_arrow(one) for one in (table, wide, coded, nulls, numbered)]
    packed = []
    for compression in ("lz4", "zstd"):
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        packed.append(bytes(sink.getvalue()))
    return plain + packed


def mutate(body: bytes, chance: random.Random) -> bytes:
    """A few changed, lost, doubled or inserted bytes."""
    data = bytearray(body)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(data)) if data else 0
        length = chance.choice((1, 1, 4, 8, 64))
        match chance.randrange(6):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                data[at : at + 1] = bytes([chance.choice(EDGES)])
            case 2:
                data[at : at + length] = bytes([chance.choice(EDGES)]) * length
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                del data[at:]
    return bytes(data)


def test_mutated_arrow_streams() -> None:
    chance = random.Random(20261121)
    bodies = seeds()
    read = refused = longest = 0
    kinds: set[type[RecordError]] = set()
    for _ in range(STREAMS):
        body = mutate(chance.choice(bodies), chance)
        try:
            table = check_table(decode_arrow(body, LIMITS))
        except RecordError as error:
            kinds.add(type(error))
            longest = max(longest, len(str(error)))
            refused += 1
            continue
        table.to_pylist()
        read += 1
    assert read > 0
    assert refused > read
    assert longest < 2000
    assert all(400 <= HTTP_STATUS[kind] < 500 for kind in kinds)


def test_mutated_json_bodies() -> None:
    import orjson

    chance = random.Random(20261121)
    spoken = [{key: [{"role": "user", "content": text}] for key, text in GROUPS[0].items()}]
    bodies = [orjson.dumps({"records": records}) for records in (GROUPS[:3], spoken, [])]
    refused = 0
    for _ in range(BODIES):
        body = mutate(chance.choice(bodies), chance)
        try:
            batch = to_batch(decode_json(body, LIMITS))
        except RecordError:
            refused += 1
            continue
        batch.table.to_pylist()
    assert refused > BODIES / 4
