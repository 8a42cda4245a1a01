"""`polar-ray score | serve | demo`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polar_ray.cli.app import Overrides, cli, errors_on_stderr, parse_config, parse_settings
from polar_ray.config import PoolConfig, ScorerConfig
from polar_ray.errors import ConfigError, ModelChanged

if TYPE_CHECKING:
    import pyarrow as pa

    from polar_ray.client.same_model import OneModel


@cli.command()
def score(
    file: Annotated[str, typer.Argument(help="A .jsonl or .parquet file; - is jsonl on stdin.")],
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint directory; else built-in.")] = None,
    address: Annotated[
        str | None, typer.Option(help="http://host:port of a running pool; else in this process.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Write results to this .parquet or .jsonl file.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Deadline of one request to --address.")] = 600,
    token_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the token for --address.")
    ] = None,
    priority: Annotated[
        str, typer.Option(help="train, eval or offline: whose work goes first at --address.")
    ] = "offline",
) -> None:
    """Score a file of records: one result row per input row, in order."""
    from polar_ray.client.same_model import OneModel
    from polar_ray.files import ResultWriter, check_apart, read_chunks

    with errors_on_stderr():
        # Mistakes in names are found before a model is loaded.
        chunks = _announced(read_chunks(file))
        if output is not None:
            check_apart(file, output)
            writing = ResultWriter(output)
        token = None if token_file is None else _first_line(token_file)
        scoring = _scoring(overrides, model, address, timeout_s, priority, token)
        same = OneModel()
        results = (same.check(scoring(chunk.records)) for chunk in chunks)
        if output is None:
            with _told_what_is_printed(same):
                _print_results(results)
            return
        with writing as writer, _progress(output) as advance:
            for table in results:
                writer.write(table)
                advance(table.num_rows, table["score"].null_count)


@cli.command()
def serve(
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="A YAML file of pool settings, then key=value.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the Serve application.")] = "polar",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="HTTP port.")] = 8000,
    route_prefix: Annotated[
        str, typer.Option(help="Path of its own, for a second pool on one cluster, such as /b.")
    ] = "/",
) -> None:
    """Start a pool on this Ray cluster (or a local one) and keep it running."""
    _interrupted_once()
    with errors_on_stderr("serve"):
        config = parse_settings(PoolConfig, {}, settings or [])
        from polar_ray.pool.http.port import check_number
        from polar_ray.pool.local import pool

        port = check_number(port)
        with pool(config, name=name, host=host, port=port, route_prefix=route_prefix) as url:
            typer.echo(f"pool {name!r} is ready: {url}/score  (docs: {url}/docs)", err=True)
            _wait_for_interrupt()


@cli.command()
def demo(
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(help="HTTP port; 0 takes a free one.")] = 0,
) -> None:
    """Start a pool here, score a few groups through the handle and HTTP, and shut down."""
    with errors_on_stderr("serve"):
        config = parse_config(PoolConfig, {"num_replicas": 2, "num_cpus": 0.5}, overrides)
        from polar_ray.demo import run

        run(config, port=port)


def _scoring(
    overrides: list[str] | None,
    model: str | None,
    address: str | None,
    timeout_s: float,
    priority: Any,
    token: str | None,
) -> Callable[[Any], pa.Table]:
    """What scores a chunk: a scorer in this process, or a client of a pool."""
    if address is not None:
        if model is not None or overrides:
            raise ConfigError("--address scores with the pool's model; drop --model and settings")
        from polar_ray.client import connect

        client = connect(address=address, timeout_s=timeout_s, priority=priority, token=token)
        client.tell_waiting(lambda reason: typer.echo(reason, err=True))
        return client.score_table
    config = parse_config(ScorerConfig, {} if model is None else {"model": model}, overrides)
    from polar_ray import Scorer

    return Scorer(config).score


def _first_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path}: {error}") from None
    if not lines:
        raise ConfigError(f"--token-file {path} is empty")
    return lines[0]


def _announced(chunks: Iterator[Any]) -> Iterator[Any]:
    """The same chunks, with one word on stderr for each extra column."""
    told: set[str] = set()
    for chunk in chunks:
        if new := chunk.ignored - told:
            typer.echo(f"ignoring extra column(s): {', '.join(sorted(new))}", err=True)
            told |= new
        yield chunk


def _print_results(tables: Iterator[pa.Table]) -> None:
    """A table for a person, JSON lines for a pipe."""
    if not sys.stdout.isatty():
        from polar_ray.files import write_jsonl

        for table in tables:
            write_jsonl(table, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table("row", "score", "tokens", "notes")
    row = 0
    for table in tables:
        for result in table.to_pylist():
            notes = [result["error"]] if result["error"] else []
            notes += ["truncated"] if result["truncated"] else []
            notes += ["spells a control token"] if result["control_text"] else []
            value = "-" if result["score"] is None else f"{result['score']:.4f}"
            name = str(result.get("id", row))
            # Ids and errors quote the input, which may look like rich's own markup.
            cells = (name, value, str(result["num_tokens"]), "; ".join(notes))
            shown.add_row(*map(escape, cells))
            row += 1
    Console().print(shown)


@contextmanager
def _told_what_is_printed(same: OneModel) -> Iterator[None]:
    """Rows on stdout cannot be taken back when a later one turns out to be of another model."""
    try:
        yield
    except ModelChanged as error:
        if sys.stdout.isatty():  # a person's table is shown once it is complete
            raise
        printed = f"the {same.num_rows} rows on stdout are of the former model only"
        raise ModelChanged(f"{error}; {printed}") from None


@contextmanager
def _progress(output: str) -> Iterator[Callable[[int, int], None]]:
    """A progress line on stderr, and a last word on what was written."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    rows = errors = 0
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring")

        def advance(more_rows: int, more_errors: int) -> None:
            nonlocal rows, errors
            rows, errors = rows + more_rows, errors + more_errors
            progress.update(task, description=f"{rows} rows, {errors} without a score")

        yield advance
    typer.echo(f"{rows} rows, {errors} without a score: {output}", err=True)


def _interrupted_once() -> None:
    """From now on the first SIGINT or SIGTERM raises KeyboardInterrupt; what then stops the pool is
    not disturbed by a second one, and interrupted by a third."""
    import signal

    signals: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        signals.append(number)
        if len(signals) != 2:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as it is in a script's background
            signal.signal(number, on_signal)


def _wait_for_interrupt() -> None:
    import threading

    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo("stopping", err=True)
