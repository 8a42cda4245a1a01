"""Parts: the input's rows with their scores, one parquet file for each split.

A part carries its own report and a digest that is also of its job, its name and its split, so that
finding it whole is all it takes to know that its split is done.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.results import with_scores
from polar_ray.data.splits import Split
from polar_ray.data.storage import Place, write_whole
from polar_ray.errors import JobStopped
from polar_ray.offline.sealed import digest_if_sealed, sealed
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
    """Writes rows beside their scores; the file appears complete or not at all.

    Of two tasks that write the same part, the first has written it: the scores of a second forward
    may differ in their last digits, and nothing that was reported may change.
    """
    report = report_of(scores)
    made = {f"{METADATA_PREFIX}{key}": value for key, value in provenance(scores).items()}
    metadata = {**made, FINGERPRINT: fingerprint, REPORT: orjson.dumps(asdict(report))}
    sink = pa.BufferOutputStream()
    table = with_scores(rows, scores, prefix).replace_schema_metadata(metadata)
    pq.write_table(table, sink, compression="zstd")
    data = sealed(sink.getvalue(), _seal(split, fingerprint))
    name = part_name(split)
    if not write_whole(where, name, data, replace=False):
        if (found := find_part(where, split, fingerprint)) is not None:
            return found
        write_whole(where, name, data)  # what is there is none of this job's
    return Written(name, len(data), sha256(data).hexdigest(), report)


def part_name(split: Split) -> str:
    """Name of the file that a split becomes."""
    return f"part-{split.number:06d}.parquet"


def find_part(where: Place, split: Split, fingerprint: str) -> Written | None:
    """The part of a split, if it is there as this job wrote it. Reads all of it."""
    name = part_name(split)
    digest = digest_if_sealed(where, name, _seal(split, fingerprint))
    return None if digest is None else described(where, name, digest)


def described(where: Place, name: str, digest: str) -> Written:
    """A part whose digest agrees, with what it says of itself."""
    with where.filesystem.open_input_file(where.within(name)) as source:
        metadata = pq.ParquetFile(source).schema_arrow.metadata
        report = PartReport(**orjson.loads(metadata[REPORT.encode()]))
        return Written(name, source.size(), digest, report)


def recount(where: Place, part: Written) -> int:
    """The rows of a part by its file. Raises `JobStopped` where that is not as it was written."""
    try:
        with where.filesystem.open_input_file(where.within(part.name)) as source:
            rows: int = pq.ParquetFile(source).metadata.num_rows
            if (source.size(), rows) == (part.size_bytes, part.report.rows):
                return rows
    except pa.ArrowInvalid:
        pass
    raise JobStopped(f"{where.within(part.name)} was changed while the job ran; run this again")


def _seal(split: Split, fingerprint: str) -> str:
    return f"{fingerprint} {part_name(split)} {split}"
