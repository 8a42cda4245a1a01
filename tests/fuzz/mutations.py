"""Good bodies of `POST /score`, and what becomes of them on a bad day."""

from __future__ import annotations

import random

import orjson
import pyarrow as pa
from sample_records import GROUPS

from polar_ray.config import HttpConfig
from polar_ray.stream import encode_arrow

LIMITS = HttpConfig(max_body_bytes=1 << 20, max_rows=1000)
EDGES = (0, 1, 2, 3, 0x7F, 0x80, 0xFE, 0xFF)


def streams() -> list[bytes]:
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


def json_bodies() -> list[bytes]:
    """Texts, messages, and nothing at all."""
    spoken = [{key: [{"role": "user", "content": text}] for key, text in GROUPS[0].items()}]
    return [orjson.dumps({"records": records}) for records in (GROUPS[:3], spoken, [])]


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
