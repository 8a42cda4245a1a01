"""What fewer bits do to the scores: each dtype against float32, on the same records.

    python benchmarks/precision.py [--model DIR] [--data FILE] [--groups 64]

For each dtype that runs here: the errors' distribution, the rank correlation within groups, and how
many pairs of candidates that float32 holds apart by more than 0.1 come out the other way round. The
gate of a dtype is a correlation of 0.99 and less than 1 % of such flips. Without the data file,
held-out synthetic groups are scored.
"""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import mean
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from rich.table import Table

from polar_ray.config import NativeEngineConfig, ScorerConfig
from polar_ray.errors import ConfigError
from polar_ray.scorer import Scorer
from polar_ray.train.recipe.synthetic import HELD_OUT, TRAINED, compare

APART = 0.1
MIN_CORRELATION, MAX_FLIPS = 0.99, 0.01

Floats = npt.NDArray[np.float32]


def groups_of(data: Path, count: int) -> list[list[dict[str, Any]]]:
    """The first groups of a rollouts file, or synthetic ones."""
    if data.is_file():
        found: dict[Any, list[dict[str, Any]]] = {}
        for row in pq.read_table(data).to_pylist():
            record = {name: row[name] for name in ("prompt", "reference", "output")}
            found.setdefault(row["group"], []).append(record)
        return list(found.values())[:count]
    rng, families = Random(1), list(TRAINED.values())
    made = [compare(n, f, families, rng) for n, f in list(HELD_OUT.items()) * (count // 7 + 1)]
    return [
        [{"prompt": one.prompt, "reference": one.reference, "output": out} for out in one.outputs]
        for one in made[:count]
    ]


def ranks(scores: Floats) -> npt.NDArray[np.float64]:
    """Ranks from 0, ties sharing their mean."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[places]


def correlation(one: Floats, other: Floats) -> float | None:
    """Spearman's; None where either says nothing."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def flips(exact: Floats, found: Floats) -> tuple[int, int]:
    """Pairs more than `APART` apart, and how many of them came out in another order."""
    differences = exact[:, None] - exact[None]
    pairs = differences > APART
    turned = pairs & (found[:, None] <= found[None])
    return int(pairs.sum()), int(turned.sum())


def main(
    model: Annotated[str | None, typer.Option(help="Checkpoint; default: the built-in.")] = None,
    data: Annotated[Path, typer.Option()] = Path("../shared/data/rollouts.parquet"),
    groups: Annotated[int, typer.Option(help="How many groups to score.")] = 64,
    device: Annotated[str, typer.Option()] = "auto",
) -> None:
    """Prints a table for people and a line of JSON for programs."""
    made = groups_of(data, groups)
    records = [record for group in made for record in group]
    borders = np.cumsum([0, *map(len, made)])
    console = Console()
    table = Table("dtype", "seconds", "mean |error|", "max |error|", "Spearman", "flips", "gate")
    report: dict[str, Any] = {"records": len(records)}
    exact: Floats | None = None
    for dtype in ("float32", "bfloat16", "int8", "fp8"):
        try:
            engine = NativeEngineConfig.model_validate({"dtype": dtype, "device": device})
            scorer = Scorer(ScorerConfig(model=model, engine=engine))
        except ConfigError as refusal:
            console.print(f"{dtype}: {refusal}")
            continue
        started = time.perf_counter()
        found = scorer.score(records)["score"].to_numpy()
        seconds = time.perf_counter() - started
        scorer.close()
        exact = found if exact is None else exact
        parts = [slice(a, b) for a, b in pairwise(borders)]
        correlations = [correlation(exact[part], found[part]) for part in parts]
        counted = [flips(exact[part], found[part]) for part in parts]
        rank = mean(value for value in correlations if value is not None)
        turned = sum(b for _, b in counted) / max(1, sum(a for a, _ in counted))
        error = np.abs(found - exact)
        passed = rank >= MIN_CORRELATION and turned < MAX_FLIPS
        report[dtype] = {
            "seconds": round(seconds, 2),
            "mean_error": float(error.mean()),
            "p99_error": float(np.quantile(error, 0.99)),
            "max_error": float(error.max()),
            "spearman_within_groups": rank,
            "flips": turned,
            "passes": passed,
        }
        numbers = (f"{seconds:.1f}", f"{error.mean():.2g}", f"{error.max():.2g}", f"{rank:.4f}")
        table.add_row(dtype, *numbers, f"{turned:.2%}", "passes" if passed else "fails")
    console.print(table)
    report["torch"] = torch.__version__
    print(json.dumps(report))


if __name__ == "__main__":
    typer.run(main)
