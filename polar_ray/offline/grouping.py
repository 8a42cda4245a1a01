"""Locality: records that share prompt and reference brought together, where that pays.

Within a split the engine finds what records share by itself; what is lost is what they share with
records of other splits. `saving` estimates how much that is, from hashes alone. Where it pays, each
run of splits is written once as a *shuffle file*, its rows sorted by bucket (a range of group
hashes), and the work is cut anew from the buckets. A shuffle file says which of its splits it does
not have, because they could not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b, sha256
from itertools import pairwise
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.columns import Columns
from polar_ray.data.formats import Rows
from polar_ray.data.splits import Split
from polar_ray.data.storage import Place
from polar_ray.offline.conservation import Problem
from polar_ray.offline.sealed import SEAL_BYTES, digest_if_sealed, footer, proven, write_sealed
from polar_ray.planning.shard import row_groups

Hashes = npt.NDArray[np.uint64]

PAYS_FROM = 0.1
"""Share of the work that grouping must save. Its price is to read the input once or twice more and
to write it once, which is little beside scoring, but not nothing."""

MOST_KEPT = 200_000
"""Group hashes that a split's sample may add; above it, a part of the hashes stands for all."""

SPLITS_PER_SHUFFLE = 8
"""Splits that are shuffled, and cut from a bucket, together: fewer and larger pieces of files."""

SHUFFLE = "_shuffle-"

SHUFFLED = b"polar_ray.shuffled"
"""Metadata of shuffle files: their `Shuffled` as JSON."""

ENTRY = Struct("<QQ32s")
"""Of the table of a shuffle file, one for each bucket: where it begins and ends, and a digest."""


@dataclass(frozen=True, slots=True)
class BucketSplit(Split):
    """Rows of a bucket of grouped records, whose number is `bucket`."""

    bucket: int

    def __str__(self) -> str:
        return f"bucket {self.bucket}, rows {self.start} to {self.stop}"


@dataclass(frozen=True, slots=True)
class Shuffled:
    """What a shuffle file holds: rows by bucket, and what it lacks of its splits."""

    sizes: list[int]
    skipped: list[Problem]


@dataclass(frozen=True, slots=True)
class Sample:
    """The groups of one split: their hashes, and bytes of prompt and reference that each costs."""

    hashes: Hashes
    stem_bytes: npt.NDArray[np.int64]
    other_bytes: int
    """Bytes of outputs, which nobody shares."""


def group_hashes(request: pa.Table) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """uint64 [rows]: a hash of prompt, reference and wrapper; and the first row of each group."""
    codes = row_groups(request)
    _, first = np.unique(codes, return_index=True)
    columns = [n for n in ("prompt", "reference", "wrapper") if n in request.column_names]
    texts = request.select(columns).take(pa.array(first)).to_pylist()
    values = np.array([_hash(row) for row in texts], dtype=np.uint64)
    return values[codes] if len(codes) else values, first


def _hash(row: dict[str, Any]) -> int:
    total = blake2b(digest_size=8)
    for text in row.values():
        data = (text or "").encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(total.digest(), "little")


def sample(request: pa.Table) -> Sample:
    """What `saving` needs to know of a split."""
    hashes, first = group_hashes(request)
    prompts, references, outputs = (_bytes(request[n]) for n in ("prompt", "reference", "output"))
    stems = 2 * prompts[first] + references[first]  # the prompt stands before either response
    return Sample(hashes[first], stems, int(outputs.sum()))


def _bytes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    lengths = pc.fill_null(pc.binary_length(column), 0)
    return np.asarray(lengths.to_numpy(), dtype=np.int64)


def saving(samples: Iterable[Sample]) -> float:
    """The share of all bytes that need not be computed once each group is in one place.

    Bounded in memory: hashes are kept while they end in enough zero bits, and stand for the rest.
    """
    kept: dict[int, list[int]] = {}
    divisor, total, stems_now = 1, 0, 0
    for one in samples:
        total += int(one.stem_bytes.sum()) + one.other_bytes
        stems_now += int(one.stem_bytes.sum())
        chosen = one.hashes % np.uint64(divisor) == 0
        for key, size in zip(
            one.hashes[chosen].tolist(), one.stem_bytes[chosen].tolist(), strict=True
        ):
            kept.setdefault(key, [0, size])[0] += 1
        while len(kept) > MOST_KEPT:
            divisor *= 2
            kept = {key: value for key, value in kept.items() if key % divisor == 0}
    again = sum((times - 1) * size for times, size in kept.values())
    seen = sum(times * size for times, size in kept.values())
    # The kept groups tell which share of stems is computed again; stems as a whole are known.
    return (again / seen if seen else 0.0) * stems_now / max(1, total)


def most_saving(samples: Iterable[Sample]) -> float:
    """The share of bytes in prompts and references, each once per split: no grouping saves more."""
    stems, total = 0, 0
    for one in samples:
        stems += int(one.stem_bytes.sum())
        total += int(one.stem_bytes.sum()) + one.other_bytes
    return stems / max(1, total)


def num_buckets(rows: int, rows_per_part: int) -> int:
    """Buckets that hold a handful of parts each."""
    return max(1, -(-rows // (rows_per_part * SPLITS_PER_SHUFFLE)))


def bucket_of(hashes: Hashes, count: int) -> npt.NDArray[np.int64]:
    """int64 [rows]: ranges of hashes, so that sorting by hash sorts by bucket too."""
    width = np.uint64(min((1 << 64) // count, (1 << 64) - 1))
    buckets: npt.NDArray[np.int64] = np.minimum(hashes // width, count - 1).astype(np.int64)
    return buckets


def cut_buckets(sizes: Sequence[int], rows: int, size_bytes: int) -> list[Split]:
    """Buckets of so many rows each, which hold `size_bytes` in all, in pieces of about `rows`."""
    total = max(1, sum(sizes))
    splits: list[Split] = []
    for bucket, size in enumerate(sizes):
        for start in range(0, size, rows):
            stop = min(start + rows, size)
            share = size_bytes * (stop - start) // total
            version = (0, "")  # of no file
            splits.append(
                BucketSplit(len(splits), "", "grouped", start, stop, share, version, bucket)
            )
    return splits


def shuffle_name(number: int) -> str:
    """Name of a shuffle file."""
    return f"{SHUFFLE}{number:06d}.arrow"


def write_shuffle(
    where: Place,
    number: int,
    what: str,
    rows: Rows,
    request: pa.Table,
    skipped: list[Problem],
    count: int,
) -> Shuffled:
    """Writes rows sorted by group, one record batch for each of `count` buckets. `what` they are
    is sealed with them; see `write_sealed`."""
    hashes, _ = group_hashes(request)
    order = np.argsort(hashes, kind="stable")
    sizes = np.bincount(bucket_of(hashes, count), minlength=count).tolist()
    reasons = pa.array([rows.errors.get(i) for i in range(rows.num_rows)], pa.string())
    # By its place: the input may have a column of any name.
    table = rows.table.append_column("error", reasons).take(pa.array(order))
    made = orjson.dumps(asdict(Shuffled(sizes, skipped)))
    table = table.replace_schema_metadata({SHUFFLED: made}).unify_dictionaries()
    sink, ends = pa.BufferOutputStream(), []
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        for start, size in zip(np.cumsum([0, 0, *sizes[:-1]]), [0, *sizes], strict=True):
            writer.write_batch(_one_batch(table.slice(start, size)))
            ends.append(sink.tell())
    data = sink.getvalue()
    write_sealed(where, shuffle_name(number), data, what, _digests(data, ends))
    return _described(where, number)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    """Rows with their dictionaries, which an Arrow file has once for all batches."""
    arrays = [
        column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        for column in table.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)


def _digests(data: pa.Buffer, ends: Sequence[int]) -> bytes:
    """Where each bucket stands, with the sha256 of what it takes to read it: the beginning of the
    file, which holds dictionaries, the bucket, and the footer."""
    view = memoryview(data)
    before, behind = view[: ends[0]], view[footer(pa.BufferReader(data)) :]
    return b"".join(
        ENTRY.pack(start, stop, _sha256(before, view[start:stop], behind))
        for start, stop in pairwise(ends)
    )


def _sha256(*pieces: bytes | memoryview) -> bytes:
    total = sha256()
    for piece in pieces:
        total.update(piece)
    return total.digest()


def find_shuffle(where: Place, number: int, what: str) -> Shuffled | None:
    """A shuffle file, if it is there as it was sealed. Reads all of it."""
    if digest_if_sealed(where, shuffle_name(number), what) is None:
        return None
    return _described(where, number)


def _described(where: Place, number: int) -> Shuffled:
    path = where.within(shuffle_name(number))
    with where.filesystem.open_input_file(path) as source, proven(path):
        said = orjson.loads(pa.ipc.open_file(source).schema.metadata[SHUFFLED])
        return Shuffled(said["sizes"], [Problem(**problem) for problem in said["skipped"]])


def read_bucket(where: Place, num_files: int, bucket: int, count: int, columns: Columns) -> Rows:
    """The rows of one of `count` buckets out of all shuffle files, sorted by group. Raises
    `pa.ArrowInvalid` where one is not as it was written."""
    pieces = []
    for number in range(num_files):
        with where.filesystem.open_input_file(where.within(shuffle_name(number))) as source:
            _check_bucket(source, bucket, count)
            pieces.append(pa.ipc.open_file(source).get_batch(1 + bucket))
    table = pa.Table.from_batches(pieces).replace_schema_metadata(None)
    last = table.num_columns - 1
    reasons = table.column(last).to_pylist()
    table = table.remove_column(last)
    hashes, _ = group_hashes(columns.apply(table).table)
    order = np.argsort(hashes, kind="stable")
    errors = {i: r for i, at in enumerate(order) if (r := reasons[at]) is not None}
    return Rows(table.take(pa.array(order)), errors)


def _check_bucket(source: Any, bucket: int, count: int) -> None:
    def read(start: int, stop: int) -> bytes:
        source.seek(start)
        data: bytes = source.read(stop - start)
        return data

    size, end = source.size(), footer(source)
    table_at = end - SEAL_BYTES - count * ENTRY.size
    if table_at >= 0:
        table = list(ENTRY.iter_unpack(read(table_at, end - SEAL_BYTES)))
        (begin, _, _), (start, stop, digest) = table[0], table[bucket]
        placed = begin <= start <= stop <= size
        if placed and _sha256(read(0, begin), read(start, stop), read(end, size)) == digest:
            return
    raise pa.ArrowInvalid(f"bucket {bucket} is not as it was written")
