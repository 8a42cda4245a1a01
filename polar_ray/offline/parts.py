"""Parts: the input's rows with their scores, one parquet file for each split.

A part carries its own report and a digest that is also of its job, its name and its split, so that
finding it whole is all it takes to know that its split is done.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.results import with_scores
from polar_ray.data.splits import Split
from polar_ray.data.storage import Place, files_below
from polar_ray.errors import ConfigError
from polar_ray.offline.sealed import changed, digest_if_sealed, digest_of, proven, write_sealed
from polar_ray.offline.stats import PartReport, report_of
from polar_ray.records import METADATA_PREFIX, provenance

FINGERPRINT = f"{METADATA_PREFIX}fingerprint"
REPORT = f"{METADATA_PREFIX}report"
NAME = re.compile(r"part-\d{6,}\.parquet")


@dataclass(frozen=True, slots=True)
class Written:
    """A part as the manifest lists it."""

    name: str
    size_bytes: int
    sha256: str
    report: PartReport

    def entry(self) -> dict[str, Any]:
        """Its line of the manifest."""
        sizes = {"rows": self.report.rows, "size_bytes": self.size_bytes}
        return {"name": self.name, **sizes, "sha256": self.sha256}


def write_part(
    where: Place, split: Split, rows: pa.Table, scores: pa.Table, *, fingerprint: str, prefix: str
) -> Written:
    """Writes rows beside their scores, unless the part is there; see `write_sealed`."""
    report = report_of(scores)
    made = {f"{METADATA_PREFIX}{key}": value for key, value in provenance(scores).items()}
    metadata = {**made, FINGERPRINT: fingerprint, REPORT: orjson.dumps(asdict(report))}
    sink = pa.BufferOutputStream()
    table = with_scores(rows, scores, prefix).replace_schema_metadata(metadata)
    pq.write_table(table, sink, compression="zstd")
    name = part_name(split)
    digest = write_sealed(where, name, sink.getvalue(), _seal(split, fingerprint))
    return described(where, name, digest)


def part_name(split: Split) -> str:
    """Name of the file that a split becomes."""
    return f"part-{split.number:06d}.parquet"


def part_names(where: Place) -> list[str]:
    """The files of a folder that are called as parts are. Raises `ConfigError` for another one that
    readers of the folder would take for a part."""
    names = parquet_files(where)
    if strange := [name for name in names if not NAME.fullmatch(name)]:
        raise ConfigError(
            f"{where.within(strange[0])} is no part of a job, but who reads the folder would count "
            "its rows; take it away"
        )
    return names


def parquet_files(where: Place) -> list[str]:
    """What who reads the folder would read, by paths within it."""
    return [name for name in files_below(where) if name.lower().endswith(".parquet")]


def find_part(where: Place, split: Split, fingerprint: str) -> Written | None:
    """The part of a split, if it is there as this job wrote it. Reads all of it."""
    name = part_name(split)
    digest = digest_if_sealed(where, name, _seal(split, fingerprint))
    return None if digest is None else described(where, name, digest)


def described(where: Place, name: str, digest: str) -> Written:
    """A part whose digest agrees, with what it says of itself."""
    path = where.within(name)
    with where.filesystem.open_input_file(path) as source, proven(path):
        metadata = pq.ParquetFile(source).schema_arrow.metadata
        report = PartReport(**orjson.loads(metadata[REPORT.encode()]))
        return Written(name, source.size(), digest, report)


def prove(where: Place, part: Written) -> int:
    """The rows of a part, by its footer. Reads all of it; raises `JobStopped` where that is not as
    it was written."""
    path = where.within(part.name)
    with where.filesystem.open_input_file(path) as source, proven(path):
        if source.size() != part.size_bytes or digest_of(source) != part.sha256:
            raise changed(path)
        rows: int = pq.ParquetFile(source).metadata.num_rows
        return rows


def _seal(split: Split, fingerprint: str) -> str:
    return f"{fingerprint} {part_name(split)} {split}"
