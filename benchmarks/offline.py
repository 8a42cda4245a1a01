"""What rescoring costs beside the scorer alone, what grouping saves, and a report of real data.

    python benchmarks/offline.py throughput [--data DIR] [--rows N] [--workers 1]
    python benchmarks/offline.py locality [--data DIR] [--groups N]
    python benchmarks/offline.py many [--rows N] [--workers 1 --in-flight 2]
    python benchmarks/offline.py poison [--rows N] [--records K]
    python benchmarks/offline.py report OUT.html WORK [--data DIR]

`throughput`: rows of the rollouts file through the scorer alone and through the whole job, native
engine, in turns. `locality`: the same file as it is and shuffled, with and without grouping.
`many`: the stub engine over many short rows, with the peak of memory of each kind of process;
`--in-flight` is the number of reading tasks for each worker. `poison`: the same with records that
end every process that scores them. `report`: both data files rescored and evaluated end to end, as
one page. Without `--workers`, a job is one process without Ray.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from rich.table import Table

from polar_ray.assets import builtin_model_dir
from polar_ray.config import RescoreConfig
from polar_ray.data.source import Source, load
from polar_ray.encoding import load_tokenizer
from polar_ray.evaluate import ranking, read
from polar_ray.evaluate.groups import spreads
from polar_ray.evaluate.html import to_html
from polar_ray.evaluate.report import report_distribution, report_ranking
from polar_ray.offline import rescore
from polar_ray.scorer import Scorer

console = Console()
cli = typer.Typer(no_args_is_help=True, add_completion=False)
Data = Annotated[Path, typer.Option(help="Folder of the data files.")]
DATA = Path("../shared/data")
Workers = Annotated[int, typer.Option(help="Replicas of a pool of the job's own; 0: no Ray.")]


@cli.command()
def throughput(
    data: Data = DATA,
    rows: Annotated[int, typer.Option(help="Of the rollouts, in their order.")] = 640,
    rows_per_part: Annotated[int, typer.Option(help="Ten groups, unless said otherwise.")] = 160,
    rounds: Annotated[int, typer.Option(help="Both ways in turns, so often.")] = 3,
    workers: Workers = 0,
) -> None:
    """The whole job against the scorer alone, on the same rows in the same portions. With a pool,
    both on one thread, which is what a replica of one CPU has."""
    if workers:
        torch.set_num_threads(1)
    config = RescoreConfig(
        rows_per_part=rows_per_part, group="never", in_flight=2, num_workers=workers
    )
    table = pq.read_table(data / "rollouts.parquet").slice(0, rows)
    alone, whole = [], []
    with scratch() as folder:
        pq.write_table(table, folder / "in.parquet")
        scorer = Scorer(config.scorer)
        scorer.score(request(table.slice(0, 32)))  # warm
        for number in range(rounds):
            started = now()
            for at in range(0, rows, config.rows_per_part):
                scorer.score(request(table.slice(at, config.rows_per_part)))
            alone.append(since(started))
            whole.append(job_cost(config, folder / "in.parquet", folder / f"out-{number}"))
        scorer.close()
    pairs = list(zip(alone, whole, strict=True))
    shares = {
        kind: median(getattr(a, kind) / getattr(w, kind) for a, w in pairs) for kind in Cost._fields
    }
    say({"rows": rows, "scorer": alone, "job": whole, "share_of_the_scorers_speed": shares})


@cli.command()
def locality(
    data: Data = DATA,
    groups: Annotated[int, typer.Option(help="Of the rollouts.")] = 64,
    rows_per_part: Annotated[int, typer.Option(help="A part holds a few of the groups.")] = 64,
    rounds: Annotated[int, typer.Option(help="All three ways in turns, so often.")] = 3,
) -> None:
    """A grouped file, and the same rows shuffled: as they are, and grouped first."""
    table = pq.read_table(data / "rollouts.parquet").slice(0, groups * 16)
    order = np.random.default_rng(0).permutation(table.num_rows)
    costs: dict[str, list[Cost]] = {"grouped file": [], "shuffled": [], "shuffled, auto": []}
    with scratch() as folder:
        pq.write_table(table, folder / "grouped.parquet")
        pq.write_table(table.take(pa.array(order)), folder / "shuffled.parquet")
        ways = [("grouped file", "grouped", "auto"), ("shuffled", "shuffled", "never")]
        ways.append(("shuffled, auto", "shuffled", "auto"))
        for number in range(rounds):
            for name, file, group in ways:
                config = RescoreConfig.model_validate(
                    {"rows_per_part": rows_per_part, "group": group, "in_flight": 2}
                )
                out = folder / f"{name}-{number}"
                costs[name].append(job_cost(config, folder / f"{file}.parquet", out))
    best = {name: min(one.cpu_s for one in values) for name, values in costs.items()}
    shares = {name: best["grouped file"] / value for name, value in best.items()}
    say({"rows": table.num_rows, **costs, "share_of_the_grouped_speed_by_cpu": shares})


@cli.command()
def many(
    rows: Annotated[int, typer.Option(help="How many.")] = 1_000_000,
    per_file: Annotated[int, typer.Option(help="Rows of one input file.")] = 250_000,
    workers: Workers = 0,
    in_flight: Annotated[int, typer.Option(help="Parts, or tasks for each worker, at once.")] = 3,
) -> None:
    """Short rows through the stub engine: what the job itself costs, and the memory it takes."""
    config = RescoreConfig.model_validate(
        {"engine.type": "stub", "group": "never", "num_workers": workers, "in_flight": in_flight}
    )
    with scratch() as folder:
        write_short(folder / "in", rows, per_file)
        peaks = Peaks()
        cost = job_cost(config, folder / "in", folder / "out", peaks.look)
        found = load(Source(str(folder / "out")), ["n"])["n"].to_numpy()
    said = {"rows": rows, "job": cost._asdict(), "rows_per_s": rows / cost.wall_s}
    once = bool((np.bincount(found, minlength=rows) == 1).all())
    say({**said, "peak_mib": peaks.mib, "each_row_once": once})


@cli.command()
def poison(
    rows: Annotated[int, typer.Option(help="How many.")] = 20_480,
    records: Annotated[int, typer.Option(help="Of these, spread evenly, end processes.")] = 1,
    workers: Annotated[int, typer.Option(help="Replicas of the job's pool.")] = 2,
) -> None:
    """Records that end every process that scores them: they are reported, all others scored."""
    [fatal] = load_tokenizer(builtin_model_dir()).encode("\x07")
    config = RescoreConfig.model_validate(
        {"engine.type": "stub", "engine.fatal_token": fatal, "num_workers": workers}
    )
    bad = {n * rows // records + rows // records // 2 for n in range(records)}
    with scratch() as folder:
        write_short(folder / "in", rows, rows, bad)
        cost = job_cost(config, folder / "in", folder / "out")
        table = load(Source(str(folder / "out")), ["n", "score", "error"])
    without = table.filter(pc.is_null(table["score"]))
    told = pc.starts_with(without["error"], "poison: ")
    said = {"rows": rows, "seconds": cost.wall_s, "without_score": without.num_rows}
    exact = sorted(without["n"].to_pylist()) == sorted(bad) and bool(pc.all(told).as_py())
    say({**said, "only_the_bad_ones": exact, "rows_out": table.num_rows})


@cli.command()
def report(
    page: Annotated[Path, typer.Argument(help="Where the page goes.")],
    work: Annotated[Path, typer.Argument(help="Folder of the two jobs; a killed one goes on.")],
    data: Data = DATA,
    model: Annotated[str | None, typer.Option(help="Checkpoint; default: the built-in.")] = None,
) -> None:
    """Both data files rescored and evaluated; the page has figures only, none of the texts."""
    config = RescoreConfig(model=model, rows_per_part=512, group="never")  # grouped already
    reports = []
    for name in ("gsm8k_solutions", "rollouts"):
        manifest = rescore(config, str(data / f"{name}.parquet"), str(work / name))
        source = Source(str(work / name))
        known = {"score", "group", "correct"} & {*source.schema().names}
        table = load(source, sorted(known))
        facts = {"file": f"{name}.parquet", "rows": str(table.num_rows), **manifest["made_by"]}
        scores, groups = read.scores(table, "score"), read.names(table, ["group"])
        if "correct" in table.column_names:
            labels = read.labels(table, "correct")
            found = ranking(scores, labels, groups)
            title = "GSM8K solutions: right over wrong"
            reports.append(report_ranking(found, scores, labels, facts, title))
        else:
            title = "Rollouts: 16 policies for each prompt"
            spread = spreads(scores, groups)
            reports.append(report_distribution(scores, facts, title, spread))
    page.write_text(to_html("polar_ray rescoring report", reports), encoding="utf-8")
    console.print_json(json.dumps([one.to_json() for one in reports]))


class Cost(NamedTuple):
    """Seconds of the clock, and of this process's threads on a CPU.

    The second is what compares two ways on a machine that others use as well.
    """

    wall_s: float
    cpu_s: float


def now() -> Cost:
    """Of this process so far."""
    return Cost(time.perf_counter(), time.process_time())


def since(start: Cost) -> Cost:
    """What was spent from then on."""
    end = now()
    return Cost(end.wall_s - start.wall_s, end.cpu_s - start.cpu_s)


def job_cost(
    config: RescoreConfig, source: Path, out: Path, look: Callable[[], None] = lambda: None
) -> Cost:
    """Of a whole job but for the loading of its model, which a long job does once, and the end of
    its pool. `look` is called at every event."""
    marks: dict[str, Cost] = {}

    def listen(event: dict[str, Any]) -> None:
        marks.setdefault(event["event"], now())
        look()

    rescore(config, str(source), str(out), listen)
    return Cost(*(end - start for end, start in zip(marks["done"], marks["loaded"], strict=True)))


def write_short(folder: Path, rows: int, per_file: int, bad: Collection[int] = ()) -> None:
    """Files of short rows in groups of 8; the output of `bad` ones has a character of its own."""
    folder.mkdir()
    for first in range(0, rows, per_file):
        numbers = range(first, min(first + per_file, rows))
        columns: dict[str, Any] = {
            "prompt": [f"What is {n // 8} + 1?" for n in numbers],
            "reference": [str(n // 8 + 1) for n in numbers],
            "output": [f"It is {n}." + "\x07" * (n in bad) for n in numbers],
            "n": list(numbers),
        }
        pq.write_table(pa.table(columns), folder / f"{first:012}.parquet")


TITLES = {
    re.compile(rb"ray::rescore"): "task",
    re.compile(rb"ray::ServeReplica:rescore-\w+:Router"): "router",
    re.compile(rb"ray::ServeReplica:rescore-\w+:Replica"): "replica",
}


class Peaks:
    """The most memory that a process of each kind has held, in MiB, shared memory included."""

    def __init__(self) -> None:
        self.mib = {"driver before": peak_mib(os.getpid())}

    def look(self) -> None:
        """Every process that is there now. The kernel keeps each one's peak."""
        self._keep("driver", os.getpid())
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                title = path.read_bytes()
                for pattern, kind in TITLES.items():
                    if pattern.match(title):
                        self._keep(kind, int(path.parent.name))

    def _keep(self, kind: str, pid: int) -> None:
        with suppress(OSError, IndexError):  # it may have ended
            self.mib[kind] = max(self.mib.get(kind, 0), peak_mib(pid))


def request(table: pa.Table) -> pa.Table:
    """The columns that are scored."""
    return table.select(["prompt", "reference", "output"])


def peak_mib(pid: int) -> int:
    """The most memory that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for as long as a block."""
    folder = Path(tempfile.mkdtemp(prefix="polar_ray-offline-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def say(facts: dict[str, Any]) -> None:
    """A table for people and a line of JSON for programs."""
    table = Table("", "")
    for name, value in facts.items():
        values = value.items() if isinstance(value, dict) else [("", value)]
        for inner, one in values:
            flat = np.ravel(one).tolist()
            many = [f"{x:.3f}" if isinstance(x, float) else str(x) for x in flat]
            table.add_row(f"{name.replace('_', ' ')} {inner}", ", ".join(many))
    console.print(table)
    console.print_json(json.dumps(facts))


if __name__ == "__main__":
    cli()
