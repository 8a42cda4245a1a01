"""polar_ray's engine against what people score POLAR with today: same weights, same token ids.

    python benchmarks/engine.py [--shape prototype|tiny] [--workloads W1,W2,...] [--engines ...]
        [--vllm DIR] [--sglang DIR] [--plots DIR]

Each competitor runs each workload in a process of its own. The figure of merit is CPU seconds,
which a busy machine disturbs least; ratios are within one run. Prints tables and, as its last
line, one JSON document. The environments of vllm and sglang are ones in which they run on a CPU.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from engines import foreign, report, workloads
from engines.checkpoint import SHAPES, make_checkpoint, shape_of
from engines.growth import measure_growth, plot_growth
from engines.planner import measure_planner
from engines.worker import NAIVE, NO_REUSE, OURS, SORTED, save_ids
from rich.console import Console

from polar_ray.planning import Ids

HERE = Path(__file__).parent
ENGINES = {
    "transformers": NAIVE,
    "sorted": SORTED,
    "ours": OURS,
    "noreuse": NO_REUSE,
    "vllm": foreign.VLLM,
    "sglang": foreign.SGLANG,
    "sglang-in-turns": foreign.SGLANG_IN_TURNS,
}

console = Console(width=160)


COUNTED = (NAIVE, SORTED, OURS)
"""Whose operations are counted, which takes another run: enough to check plan and prediction."""


class Bench:
    """Runs competitors on one checkpoint, each in its own process."""

    def __init__(
        self, folder: Path, shape: str, environments: foreign.Environments, **task: Any
    ) -> None:
        self.folder = folder
        self.environments = environments
        self.task = {"model_dir": str(make_checkpoint(folder / "model", shape)), **task}

    def run(self, engine: str, ids: list[Ids], *, count: bool = True) -> dict[str, Any] | None:
        """The worker's report, None (and a line) where it failed or is not installed."""
        save_ids(self.folder / "ids.npz", ids)
        task = {"engine": engine, "ids": str(self.folder / "ids.npz"), **self.task}
        task["count"] = count and engine in COUNTED
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        task["log"] = str(log)
        command = [sys.executable, "-m", "engines.worker"]
        if engine in foreign.SCRIPTS:
            command = foreign.command(engine, self.environments)
            if not command:
                package, _ = foreign.SCRIPTS[engine]
                console.print(f"{engine} is skipped: --{package} DIR names no environment with it")
                return None
        threads = str(task["threads"])
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        done = subprocess.run(
            [*command, json.dumps(task)], cwd=HERE, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            said = log.read_text("utf-8", "replace") if log.exists() else done.stderr
            console.print(f"{engine} failed:\n{said[-2000:]}", markup=False)
            return None
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def describe(ids: list[Ids]) -> dict[str, Any]:
    """What a workload's figures rest on."""
    total, unique = sum(map(len, ids)), workloads.unique_tokens(ids)
    return {
        "records": len(ids),
        "tokens": total,
        "unique_tokens": unique,
        "total_to_unique": total / unique,
        "padded_to_unique": workloads.padded_tokens(ids) / unique,
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "date": date.today().isoformat(),
    }


def main(
    shape: Annotated[str, typer.Option(help=f"one of {', '.join(SHAPES)}")] = "prototype",
    chosen: Annotated[
        str, typer.Option("--workloads", help="of " + ",".join(workloads.NAMES))
    ] = "W1,W2,W3,W4,W5,rollouts",
    engines: Annotated[str, typer.Option(help="of " + ",".join(ENGINES))] = ",".join(ENGINES),
    threads: Annotated[int, typer.Option()] = 1,
    repeat: Annotated[int, typer.Option(help="the fastest run counts")] = 1,
    max_tokens: Annotated[
        int | None, typer.Option(help="of a pack; default: the engine's own choice")
    ] = None,
    data: Annotated[Path, typer.Option(help="with rollouts.parquet")] = Path("../shared/data"),
    groups: Annotated[int, typer.Option(help="of `rollouts`")] = 4,
    vllm: Annotated[Path | None, typer.Option(help="a virtual environment with vllm")] = None,
    sglang: Annotated[Path | None, typer.Option(help="one with sglang")] = None,
    planner_records: Annotated[int, typer.Option(help="0: no planner section")] = 100_000,
    plots: Annotated[Path | None, typer.Option(help="draw growth curves here")] = None,
) -> None:
    """Prints the comparison, and as its last line one JSON document."""
    results: report.Results = {}
    facts: dict[str, dict[str, Any]] = {}
    growth = None
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            Path(folder),
            shape,
            {"vllm": vllm, "sglang": sglang},
            threads=threads,
            repeat=repeat,
            max_tokens=max_tokens,
        )
        for workload in filter(None, chosen.split(",")):
            made = workloads.MADE.get(workload)
            ids = made() if made else workloads.rollouts(data, groups)
            facts[workload] = describe(ids)
            results[workload] = {}
            equal = len({len(one) for one in ids}) == 1
            for engine in engines.split(","):
                if ENGINES[engine] == SORTED and equal:
                    continue  # the same batches
                console.print(f"{workload}: {ENGINES[engine]}", style="dim")
                found = bench.run(ENGINES[engine], ids)
                if found is not None:
                    results[workload][ENGINES[engine]] = found
            report.add_ratios(results[workload], facts[workload]["tokens"])
        if plots is not None:
            growth = measure_growth(bench.run, shape_of(Path(folder) / "model"))
            plot_growth(growth, plots)
    planner = measure_planner(planner_records) if planner_records else None
    judged = report.goals(results, planner, shape)
    if results:
        report.print_results(console, results, facts)
    if judged:
        report.print_goals(console, judged)
    for reports in results.values():
        for one in reports.values():
            del one["scores"]
    document = {
        "machine": machine(),
        "shape": {"name": shape, **SHAPES[shape]},
        "threads": threads,
        "repeat": repeat,
        "max_tokens": max_tokens,
        "workloads": facts,
        "results": results,
        "growth": growth,
        "planner": planner,
        "goals": judged,
    }
    print(json.dumps(document))


if __name__ == "__main__":
    typer.run(main)
