"""Small rescoring jobs: an input, what becomes of it, and how a run is ended early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sample_records import GROUPS

from polar_ray.config import RescoreConfig
from polar_ray.scorer import Scorer

ROWS = 60
TABLE = pa.Table.from_pylist(
    [{**GROUPS[n % 12], "output": f"output {n}", "n": n} for n in range(ROWS)]
)

Config = Callable[..., RescoreConfig]


def read(out: Path) -> pa.Table:
    parts = [pq.read_table(path) for path in sorted(out.glob("part-*.parquet"))]
    return pa.concat_tables(parts)


def expected(config: RescoreConfig) -> dict[int, float]:
    result = Scorer(config.scorer).score(TABLE.drop_columns(["n"]))
    return dict(zip(TABLE["n"].to_pylist(), result["score"].to_pylist(), strict=True))


def scores(table: pa.Table) -> dict[int, float]:
    assert len(set(table["n"].to_pylist())) == table.num_rows, "a row stands there twice"
    return dict(zip(table["n"].to_pylist(), table["score"].to_pylist(), strict=True))


class Stop(Exception):
    pass


def stop_after(parts: int) -> Callable[[dict[str, Any]], None]:
    """A listener that ends the run once some parts are done."""

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["rows"] >= parts * 10:
            raise Stop

    return listen
