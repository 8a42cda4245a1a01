"""`polar-ray rescore`: a dataset of any size into parts with scores."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from polar_ray.cli.app import cli, errors_on_stderr, parse_settings
from polar_ray.cli.backend import INPUT_HELP, Model, ProgressKind, TokenFile
from polar_ray.cli.interrupts import interrupted_once
from polar_ray.config import RescoreConfig

WIDEST = 40
"""Characters of the longest bar of the histogram."""

PROGRESS_S = 1.0
"""Between two JSON lines that say how far a stage is."""

STOPPING = "stopping, when the parts in hand are scored; a third Ctrl-C does not wait for them"


@cli.command()
def rescore(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help=INPUT_HELP,
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder of the parts; path or URI.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="A YAML file of settings, then key=value: columns (output=solution), "
            "num_workers=8 num_gpus=1, engine.device=cpu.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    app_name: Annotated[
        str | None, typer.Option(help="Score with this running pool of the Ray cluster.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Score with the pool at http://host:port.")
    ] = None,
    token_file: TokenFile = None,
    max_errors: Annotated[
        int | None, typer.Option(help="Stop once more rows than this have no score.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; read, but write nothing.")
    ] = False,
    tokens_per_s: Annotated[
        float | None, typer.Option(help="Speed of all workers together, for --dry-run's hours.")
    ] = None,
    progress: Annotated[
        ProgressKind,
        typer.Option(help="On stderr: a line for a person, or JSON lines for a machine."),
    ] = "auto",
) -> None:
    """Score every row of a dataset; killed or stopped, the same command goes on where it was.

    Exit codes: 1 no row has a score, or the job stopped and can go on; 2 a mistake in the settings.
    """
    with errors_on_stderr():
        options = {
            "model": model,
            "app_name": app_name,
            "address": address,
            "token_file": None if token_file is None else str(token_file),
            "max_errors": max_errors,
        }
        given = {name: value for name, value in options.items() if value is not None}
        config = parse_settings(RescoreConfig, given, settings or [])
        from polar_ray.offline.inputs import open_input
        from polar_ray.offline.job import rescore as run

        if dry_run:
            from polar_ray.offline.estimate import estimate

            _say(estimate(config, open_input(config, source), tokens_per_s), "would be rescored")
            return
        try:
            with interrupted_once(STOPPING), _listener(progress) as listen:
                manifest = run(config, source, out, listen)
        except KeyboardInterrupt:
            typer.echo("stopped; the same command goes on where this ended", err=True)
            raise typer.Exit(130) from None
        summary = {name: manifest[name] for name in manifest if name not in ("files", "buckets")}
        _say(summary, f"rescored: {out}")
        if manifest["rows"] and manifest["num_errors"] == manifest["rows"]:
            typer.echo("no row has a score", err=True)
            raise typer.Exit(1)


class Due:
    """Whether something that comes often is to be told: once in so many seconds, for each kind."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next: dict[str, float] = {}

    def now(self, kind: str, now_s: float) -> bool:
        """Whether this one is."""
        if now_s < self._next.get(kind, now_s):
            return False
        self._next[kind] = now_s + self._every_s
        return True


@contextmanager
def _listener(kind: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    if kind == "none":
        yield lambda event: None
        return
    if kind == "json" or not sys.stderr.isatty():
        import orjson

        due = Due(PROGRESS_S)

        def write(event: dict[str, Any]) -> None:
            if event["event"] != "progress" or due.now(event["stage"], time.monotonic()):
                typer.echo(orjson.dumps(event), err=True)

        yield write
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)

        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                bar.update(task, description=describe(event), completed=event["share"])
            elif event["event"] in ("skipped", "distrusted", "arrived"):
                bar.console.print(f"{event['event']}: {event['reason']}", markup=False)

        yield listen


def describe(event: dict[str, Any]) -> str:
    """A progress event in one line."""
    words = [event["stage"]]
    if event["stage"] == "score":  # the others only read
        words.append(f"{event['rows']:,}/{event['total_rows']:,} rows")
        words.append(f"{event['tokens_per_s']:,.0f} tokens/s")
    if event["eta_s"] is not None:
        minutes, seconds = divmod(round(event["eta_s"]), 60)
        hours, minutes = divmod(minutes, 60)
        words.append(f"{hours}:{minutes:02}:{seconds:02} left")
    words += [f"{count:,} {code}" for code, count in event["errors"].items()]
    return ", ".join(words)


def _say(facts: dict[str, Any], title: str) -> None:
    """A table for a person, JSON for a pipe."""
    if not sys.stdout.isatty():
        import orjson

        typer.echo(orjson.dumps(facts, option=orjson.OPT_INDENT_2))
        return
    from rich.console import Console
    from rich.markup import escape

    from polar_ray.cli.printing import table_of

    shown = table_of("", "", title=title, show_header=False)
    for name, value in facts.items():
        if name not in ("histogram", "histogram_bin_width"):
            shown.add_row(name.replace("_", " "), escape(_cell(value)))
    console = Console()
    console.print(shown)
    for line in histogram(facts):
        console.print(line, markup=False, highlight=False)


def histogram(facts: dict[str, Any]) -> list[str]:
    """The score histogram of a manifest as lines of text, at most some 20 of them."""
    width = facts.get("histogram_bin_width", 1.0)
    edges = facts.get("histogram") or {}
    counts = {round(float(edge) / width): count for edge, count in edges.items()}
    if not counts:
        return []
    merged = 1
    while (max(counts) // merged) - (min(counts) // merged) >= 20:
        merged *= 2
    bars: dict[int, int] = {}
    for number, count in counts.items():
        bars[number // merged] = bars.get(number // merged, 0) + count
    width *= merged
    most = max(bars.values())
    lines = []
    for number in range(min(bars), max(bars) + 1):
        count = bars.get(number, 0)
        bar = "#" * -(-count * WIDEST // most)
        lines.append(f"{number * width:8.2f} .. {(number + 1) * width:8.2f} {count:10,} {bar}")
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {one}" for key, one in value.items()) or "none"
    if isinstance(value, list):
        return "\n".join(str(one) for one in value) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
