"""One scorer against a pool: the same command line, the same rows, how far do scores differ?

    python benchmarks/pool_parity.py --data ../shared/data/rollouts.parquet --groups 64

Runs `polar-ray score` in its own process and again with `--address` on a local pool, and compares
the two result files row by row. Without the data folder it makes groups of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from polar_ray.config import PoolConfig
from polar_ray.pool.local import pool
from polar_ray.records import provenance

COMMAND = [sys.executable, "-c", "from polar_ray.cli import main; main()", "score"]


def rollouts(data: Path, groups: int) -> pa.Table:
    """The first groups of a rollouts file, or made-up groups of 16 where there is none."""
    if data.is_file():
        table = pq.read_table(data)
        first = pc.unique(table["group"]).slice(0, groups)
        return table.filter(pc.is_in(table["group"], value_set=first))
    print(f"{data} is absent: scoring made-up groups instead")
    rows = [
        {
            "prompt": f"Count from {group} to {group + 40}.",
            "reference": " ".join(map(str, range(group, group + 41))),
            "output": " ".join(map(str, range(group, group + 25 + candidate))),
        }
        for group in range(groups)
        for candidate in range(16)
    ]
    return pa.Table.from_pylist(rows)


def score(source: Path, output: Path, *arguments: str) -> tuple[pa.Table, float]:
    """The result file of `polar-ray score` and its wall-clock seconds, start-up included."""
    started = time.perf_counter()
    subprocess.run([*COMMAND, str(source), "--output", str(output), *arguments], check=True)
    return pq.read_table(output), time.perf_counter() - started


def main(
    data: Annotated[Path, typer.Option()] = Path("../shared/data/rollouts.parquet"),
    groups: Annotated[int, typer.Option()] = 64,
    replicas: Annotated[int, typer.Option()] = 2,
    model: Annotated[str | None, typer.Option(help="Default: the built-in model.")] = None,
) -> None:
    """Prints the comparison, and as its last line one JSON document."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.parquet"
        pq.write_table(rollouts(data, groups), source)
        chosen = [] if model is None else ["--model", model]
        alone, alone_s = score(source, Path(folder) / "alone.parquet", *chosen)
        config = PoolConfig(model=model, num_replicas=replicas, num_cpus=0.5)
        with pool(config) as url:
            pooled, pooled_s = score(source, Path(folder) / "pooled.parquet", "--address", url)

    at = alone.column_names.index("score")
    assert alone.remove_column(at).equals(pooled.remove_column(at)), "rows differ"
    assert provenance(alone) == provenance(pooled), "models differ"
    difference = np.abs(alone["score"].to_numpy() - pooled["score"].to_numpy())
    report = {
        "rows": alone.num_rows,
        "tokens": int(np.sum(alone["num_tokens"].to_numpy())),
        "without_score": alone["score"].null_count,
        "replicas": replicas,
        "max_difference": float(np.nanmax(difference)),
        "bit_equal": float(np.mean(difference == 0)),
        "score_spread": float(np.nanstd(alone["score"].to_numpy())),
        "alone_s": round(alone_s, 1),
        "pool_s": round(pooled_s, 1),
        "model": provenance(alone)["model"],
    }
    for key, value in report.items():
        print(f"{key:>16}  {value}")
    print(json.dumps(report))


if __name__ == "__main__":
    typer.run(main)
