"""Parts: the input's rows with their scores, one parquet file for each split.

A part names the job that it belongs to and carries its own report, so that finding it whole is
all it takes to know that its split is done.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileType

from polar_ray.data.results import with_scores
from polar_ray.data.splits import Split
from polar_ray.data.storage import Place, write_whole
from polar_ray.errors import ConfigError
from polar_ray.offline.stats import PartReport, report_of
from polar_ray.records import METADATA_PREFIX, provenance

FINGERPRINT = f"{METADATA_PREFIX}fingerprint"
REPORT = f"{METADATA_PREFIX}report"


@dataclass(frozen=True, slots=True)
class Written:
    """A part as the manifest lists it."""

    name: str
    size_bytes: int
    sha256: str
    report: PartReport


def write_part(
    where: Place, name: str, rows: pa.Table, scores: pa.Table, *, fingerprint: str, prefix: str,
    left_out: frozenset[str] = frozenset(),
) -> Written:  # fmt: skip
    """Writes rows beside their scores; the file appears complete or not at all.

    Of two tasks that write the same part, the first has written it: the scores of a second forward
    may differ in their last digits, and nothing that was reported may change.
    """
    report = report_of(scores, left_out)
    made = {f"{METADATA_PREFIX}{key}": value for key, value in provenance(scores).items()}
    metadata = {**made, FINGERPRINT: fingerprint, REPORT: orjson.dumps(asdict(report))}
    sink = pa.BufferOutputStream()
    table = with_scores(rows, scores, prefix).replace_schema_metadata(metadata)
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue()
    if not write_whole(where, name, data, replace=False):
        found = find_part(where, name, fingerprint)
        assert found is not None
        return found
    return Written(name, data.size, sha256(data).hexdigest(), report)


def part_name(split: Split) -> str:
    """Name of the file that a split becomes."""
    return f"part-{split.number:06d}.parquet"


def find_part(where: Place, name: str, fingerprint: str) -> Written | None:
    """A part that is there already; its digest is left to be computed (`digest_of`)."""
    info = where.filesystem.get_file_info(where.within(name))
    if info.type != FileType.File:
        return None
    return Written(name, info.size, "", read_report(where, name, fingerprint))


def read_report(where: Place, name: str, fingerprint: str) -> PartReport:
    """What a part of this job says of itself; `ConfigError` for a file that is none."""
    try:
        with where.filesystem.open_input_file(where.within(name)) as source:
            found: dict[bytes, bytes] = pq.ParquetFile(source).schema_arrow.metadata or {}
        if found[FINGERPRINT.encode()].decode() != fingerprint:
            raise ConfigError(f"{where.within(name)} is of another job; clear the folder")
        return PartReport(**orjson.loads(found[REPORT.encode()]))
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{where.within(name)} is no part of a job ({error!s:.100}); give another folder"
        ) from None


def digest_of(where: Place, name: str) -> str:
    """Hex sha256 of a part that an earlier run wrote."""
    total = sha256()
    with where.filesystem.open_input_stream(where.within(name)) as source:
        while chunk := source.read(1 << 22):
            total.update(chunk)
    return total.hexdigest()
