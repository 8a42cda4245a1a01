"""`polar-ray demo`: a local pool, a few groups scored two ways, a ranked table.

The texts below were written for this project, but for the capital-of-China pair, which POLAR's own
model card uses as its first example.
"""

from __future__ import annotations

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from polar_ray.client import connect
from polar_ray.config import PoolConfig
from polar_ray.errors import PoolError
from polar_ray.pool.local import pool
from polar_ray.records import Record, provenance
from polar_ray.scores import BATCHING_TOLERANCE

CAPITAL = "What is the capital of China?"
PENCILS = (
    "A school buys 12 boxes of pencils. Each box holds 24 pencils. After giving 5 pencils to each "
    "of its 45 pupils, how many pencils are left?"
)
PENCILS_REFERENCE = (
    "There are 12 * 24 = 288 pencils in all. The pupils get 45 * 5 = 225 pencils. "
    "That leaves 288 - 225 = 63 pencils.\nThe answer is 63."
)
PENCILS_OUTPUTS = (
    "12 boxes with 24 pencils each make 288 pencils. 45 pupils take 5 each, which is 225. "
    "288 - 225 = 63.\nThe answer is 63.",
    "First, 12 * 24 = 288. Then 45 * 5 = 225. So 288 - 225 = 63 pencils are left.\n"
    "The answer is 63.",
    "There are 12 * 24 = 268 pencils in all. The pupils get 45 * 5 = 225 pencils. "
    "That leaves 268 - 225 = 43 pencils.\nThe answer is 43.",
    "There are 12 + 24 = 36 pencils in all, and 45 pupils, so there are not enough pencils.\n"
    "The answer is 9.",
    "Pencils were first made of graphite in the sixteenth century.",
    "I am sorry, I cannot help with that.",
)
"""How far one record's score may move with the records it is packed with, in float32."""

RECORDS = [
    Record(CAPITAL, "Beijing.", "Beijing."),
    Record(CAPITAL, "Beijing.", "Shanghai."),
    *(Record(PENCILS, PENCILS_REFERENCE, output) for output in PENCILS_OUTPUTS),
]


def run(config: PoolConfig, *, port: int = 0) -> None:
    """Scores `RECORDS` through the handle and over HTTP; raises `PoolError` if they disagree."""
    console = Console()
    console.print(f"starting a local pool of {config.least_replicas} replica(s) ...")
    with pool(config, port=port) as url:
        by_handle = connect(app_name="polar").score_table(RECORDS)
        with connect(address=url) as client:
            by_http = client.score_table(RECORDS)
    _print(console, by_handle)
    difference = largest_difference(by_handle, by_http)
    if not difference <= BATCHING_TOLERANCE:
        raise PoolError(f"the handle and HTTP differ by {difference} on the same records")
    console.print(f"the handle and HTTP agree on every score (largest difference {difference:.1g})")


def largest_difference(one: pa.Table, other: pa.Table) -> float:
    """Between the scores of two results; infinite where they differ in anything else."""
    if not one.drop_columns("score").equals(other.drop_columns("score")):
        return float("inf")
    pairs = zip(one["score"].to_pylist(), other["score"].to_pylist(), strict=True)
    return max(0.0 if a == b else float("inf") if None in (a, b) else abs(a - b) for a, b in pairs)


def _print(console: Console, result: pa.Table) -> None:
    """One table per group, best candidate first."""
    made = provenance(result)
    console.print(f"model {made['model']} ({made['model_digest'][:12]}), engine {made['engine']}")
    groups: dict[str, list[tuple[float, str]]] = {}
    for record, row in zip(RECORDS, result.to_pylist(), strict=True):
        score = float("-inf") if row["score"] is None else row["score"]
        groups.setdefault(str(record.prompt), []).append(
            (score, row["error"] or str(record.output))
        )
    for prompt, candidates in groups.items():
        table = Table("rank", "reward", "candidate", title=prompt, title_justify="left")
        for rank, (score, output) in enumerate(sorted(candidates, reverse=True), start=1):
            table.add_row(str(rank), f"{score:.4f}", output)
        console.print(table)
