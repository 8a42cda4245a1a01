"""How well a model discriminates policies: on real rollouts, on solved problems, on held-out tasks.

    python benchmarks/builtin_quality.py [--model DIR] [--data DIR] [--groups N]

(a) Each group of rollouts with its own reference as a 17th candidate: how often the reference comes
    first, and by how much. (b) Right over wrong solutions of the same problem. (c) The same
    policy's second answer over another policy's, in families of synthetic tasks that the built-in
    model was not trained on. (a) and (b) need data files and are skipped where these are absent.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from polar_ray.config import ScorerConfig
from polar_ray.scorer import Scorer
from polar_ray.train.recipe.synthetic import held_out_comparisons

Row = dict[str, Any]
Figures = dict[str, float]

HELD_OUT_SEED = 1_000_003
"""Apart from every training seed, so that not even the policies were seen."""

console = Console()


def scores(scorer: Scorer, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """One score a row; raises where a row has none."""
    records = [{name: row[name] for name in ("prompt", "reference", "output")} for row in rows]
    result = scorer.score(records)
    if errors := [text for text in result["error"].to_pylist() if text is not None]:
        raise RuntimeError(f"{len(errors)} rows without a score, the first: {errors[0]}")
    return [float(score) for score in result["score"].to_pylist()]


def by_group(path: Path, limit: int) -> list[list[Row]]:
    """The rows of each of the first `limit` groups (0: of all)."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in pq.read_table(path).to_pylist():
        groups[row["group"]].append(row)
    found = list(groups.values())
    return found[:limit] if limit else found


def reference_first(scorer: Scorer, groups: list[list[Row]]) -> Figures:
    """(a) Outputs that equal the reference, byte for byte, are no rivals of it."""
    rows: list[Row] = []
    for group in groups:
        rows += [{**group[0], "output": group[0]["reference"]}, *group]
    values = iter(scores(scorer, rows))
    firsts, gaps, margins = [], [], []
    for group in groups:
        own = next(values)
        rivals = [
            value
            for row, value in zip(group, [next(values) for _ in group], strict=True)
            if row["output"] != row["reference"]
        ]
        firsts.append(all(own > value for value in rivals))
        gaps.append(own - mean(rivals))
        margins.append(own - max(rivals))
    return {
        "groups": len(groups),
        "first": mean(firsts),
        "median_gap_to_mean": median(gaps),
        "median_gap_to_best": median(margins),
    }


def right_over_wrong(scorer: Scorer, groups: list[list[Row]]) -> Figures:
    """(b) Every pair of a right and a wrong solution; a tie counts half."""
    values = iter(scores(scorer, [row for group in groups for row in group]))
    outcomes = []
    for group in groups:
        scored = [(bool(row["correct"]), next(values)) for row in group]
        right = [value for correct, value in scored if correct]
        wrong = [value for correct, value in scored if not correct]
        outcomes += [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
    return {"pairs": len(outcomes), "accuracy": mean(outcomes)}


def same_policy(scorer: Scorer, each: int) -> Figures:
    """(c) `each` pairs of every held-out family."""
    comparisons = list(held_out_comparisons(HELD_OUT_SEED, each=each))
    rows = [
        {"prompt": one.prompt, "reference": one.reference, "output": output}
        for one in comparisons
        for output in one.outputs
    ]
    values = iter(scores(scorer, rows))
    outcomes: dict[str, list[float]] = defaultdict(list)
    for one in comparisons:
        own, rival = next(values), next(values)
        outcomes[one.family].append((own > rival) + 0.5 * (own == rival))
    every = [value for family in outcomes.values() for value in family]
    figures: Figures = {"pairs": len(every), "accuracy": mean(every)}
    return figures | {family: mean(values) for family, values in outcomes.items()}


def main(
    model: Annotated[str | None, typer.Option(help="Checkpoint; default: the built-in.")] = None,
    data: Annotated[Path, typer.Option(help="Folder of the data files.")] = Path("../shared/data"),
    groups: Annotated[int, typer.Option(help="Only so many groups of (a) and (b); 0: all.")] = 0,
    each: Annotated[int, typer.Option(help="Pairs of each held-out family.")] = 300,
) -> None:
    """Prints a table for people and a line of JSON for programs."""
    scorer = Scorer(ScorerConfig(model=model))
    report: dict[str, Figures] = {}
    started = time.monotonic()
    report["c_same_policy"] = same_policy(scorer, each)
    for name, file, measure in (
        ("b_right_over_wrong", "gsm8k_solutions.parquet", right_over_wrong),
        ("a_reference_first", "rollouts.parquet", reference_first),
    ):
        if (data / file).is_file():
            report[name] = measure(scorer, by_group(data / file, groups))
        else:
            console.print(f"skipped {name}: no {data / file}; give its folder with --data")
    table = Table("measure", "figure", "value")
    for name, figures in report.items():
        for figure, value in figures.items():
            table.add_row(name, figure, f"{value:.4f}" if isinstance(value, float) else str(value))
    console.print(table)
    seconds = round(time.monotonic() - started, 1)
    console.print_json(json.dumps({"model": scorer.provenance, "seconds": seconds, **report}))
    scorer.close()


if __name__ == "__main__":
    typer.run(main)
