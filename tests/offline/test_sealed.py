"""Files with their own digest: any other byte, name or owner shows, and every reader reads them."""

from __future__ import annotations

import random
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polar_ray.data.storage import place
from polar_ray.offline.sealed import digest_if_sealed, sealed

TABLE = pa.table({"n": list(range(500)), "text": [f"row {n}" for n in range(500)]})


def parquet() -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink, compression="zstd", row_group_size=100)
    return sink.getvalue()


def arrow() -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=100)
    return sink.getvalue()


@pytest.mark.parametrize("kind", [parquet, arrow])
def test_any_other_byte_shows(tmp_path: Path, kind: object) -> None:
    data = sealed(kind(), "mine")  # type: ignore[operator]
    path, where = tmp_path / "f", place(str(tmp_path))
    path.write_bytes(data)
    assert digest_if_sealed(where, "f", "mine") == sha256(data).hexdigest()
    assert digest_if_sealed(where, "f", "yours") is None
    assert digest_if_sealed(where, "g", "mine") is None
    rng = random.Random(0)
    for at in [*range(40), *rng.sample(range(len(data)), 300), *range(len(data) - 80, len(data))]:
        other = bytearray(data)
        other[at] ^= 1 << rng.randrange(8)
        path.write_bytes(other)
        assert digest_if_sealed(where, "f", "mine") is None, at
    for size in [0, 1, 7, 8, 11, 12, 40, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:size])
        assert digest_if_sealed(where, "f", "mine") is None, size
    path.write_bytes(data + b"\0")
    assert digest_if_sealed(where, "f", "mine") is None


def test_readers_read_them(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(sealed(parquet(), "x"))
    assert pq.read_table(path).equals(TABLE)
    assert pq.ParquetFile(path).read_row_group(3).equals(TABLE.slice(300, 100))
    assert pq.read_table(path, filters=[("n", ">", 450)]).num_rows == 49
    path.write_bytes(sealed(arrow(), "x"))
    with pa.memory_map(str(path)) as file:
        assert pa.ipc.open_file(file).read_all().equals(TABLE)
