"""Files that say that they have other rows than they have, which costs nothing but an error."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

from polar_ray.data.formats import extent
from polar_ray.data.rows import Unreadable
from polar_ray.data.source import Source
from polar_ray.data.storage import list_files

ROWS = 100
TABLE = pa.table({"text": [f"row {n}" for n in range(ROWS)], "n": list(range(ROWS))})


def varint(value: int) -> bytes:
    """An integer as a parquet footer has it."""
    value, out = (value << 1) ^ (value >> 63), bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def lying_parquet(path: Path, of: str, rows: int) -> Path:
    """A file whose footer says something else where it says how many rows there are: `of` the
    file, its row group, its first column, or all of them."""
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, use_dictionary=False, write_statistics=False)
    data = sink.getvalue()
    size = struct.unpack("<I", data[-8:-4])[0]
    true, footer = varint(ROWS), data[-8 - size : -8]
    places = [at for at in range(len(footer)) if footer.startswith(true, at)]
    counted = {}
    for at in places:
        changed = footer[:at] + varint(rows) + footer[at + len(true) :]
        whole = data[: -8 - size] + changed + struct.pack("<I", len(changed)) + b"PAR1"
        metadata = pq.ParquetFile(io.BytesIO(whole)).metadata
        group = metadata.row_group(0)
        if metadata.num_rows == rows:
            counted["file"] = at
        elif group.num_rows == rows:
            counted["group"] = at
        elif group.column(0).num_values == rows:
            counted["column"] = at
        elif group.column(1).num_values == rows:
            counted["other"] = at
    for at in sorted(counted.values() if of == "all" else [counted[of]], reverse=True):
        footer = footer[:at] + varint(rows) + footer[at + len(true) :]
    path.write_bytes(data[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1")
    return path


@pytest.mark.parametrize("rows", [2**40, 50, -5])
@pytest.mark.parametrize("of", ["file", "group", "column"])
def test_a_footer_that_contradicts_itself_is_named(tmp_path: Path, of: str, rows: int) -> None:
    path = lying_parquet(tmp_path / "in.parquet", of, rows)
    [file] = list_files(str(path))
    with pytest.raises(Unreadable, match=r"in\.parquet cannot be read: its footer says that"):
        extent(pafs.LocalFileSystem(), file)
    with pytest.raises(Unreadable, match=r"in\.parquet cannot be read: its footer says that"):
        list(Source(str(path)).chunks())


def test_a_footer_that_invents_rows_is_named(tmp_path: Path) -> None:
    path = lying_parquet(tmp_path / "in.parquet", "all", 2**40)
    [file] = list_files(str(path))
    with pytest.raises(Unreadable, match=r"in\.parquet .* holds 1,099,511,627,776 rows; at most"):
        extent(pafs.LocalFileSystem(), file)
    path = lying_parquet(path, "all", 2**20)
    with pytest.raises(Unreadable, match=r"row group 0 has 100 rows; its footer says 1,048,576"):
        list(Source(str(path)).chunks())


@pytest.mark.parametrize("ending", ["feather", "arrow"])
@pytest.mark.parametrize("rows", [2**40, -5])
def test_a_batch_that_invents_rows_is_named(tmp_path: Path, ending: str, rows: int) -> None:
    path = tmp_path / f"in.{ending}"
    new = pa.ipc.new_file if ending == "feather" else pa.ipc.new_stream
    for table in (TABLE, pa.table({"none": pa.nulls(ROWS)})):
        with new(path, table.schema) as writer:
            writer.write_table(table)
        said = path.read_bytes()
        path.write_bytes(said.replace(struct.pack("<q", ROWS), struct.pack("<q", rows)))
        [file] = list_files(str(path))
        with pytest.raises(Unreadable, match=rf"in\.{ending} cannot be read"):
            extent(pafs.LocalFileSystem(), file)
