"""The command line: `polar-ray score | serve | demo`. Heavy imports happen inside the commands."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from polar_ray.config import Config, PoolConfig, ScorerConfig, explain, parse_overrides
from polar_ray.errors import ConfigError, PolarRayError

if TYPE_CHECKING:
    import pyarrow as pa

cli = typer.Typer(
    name="polar-ray",
    help="Score rollouts with a POLAR reward model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
C = TypeVar("C", bound=Config)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings as key=value, such as engine.type=stub.", show_default=False),
]


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
    from polar_ray.files import ResultWriter, check_apart, read_chunks

    with _errors_on_stderr():
        # Mistakes in names are found before a model is loaded.
        chunks = _announced(read_chunks(file))
        if output is not None:
            check_apart(file, output)
            writing = ResultWriter(output)
        token = None if token_file is None else _first_line(token_file)
        scoring = _scoring(overrides, model, address, timeout_s, priority, token)
        if output is None:
            _print_results(scoring(chunk.records) for chunk in chunks)
            return
        with writing as writer, _progress(output) as advance:
            for chunk in chunks:
                table = scoring(chunk.records)
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
) -> None:
    """Start a pool on this Ray cluster (or a local one) and keep it running."""
    with _errors_on_stderr():
        config = _pool_config(settings or [])
        from polar_ray.pool.local import pool

        with pool(config, name=name, host=host, port=port) as url:
            typer.echo(f"pool {name!r} is ready: {url}/score  (docs: {url}/docs)", err=True)
            _wait_for_interrupt()


@cli.command()
def demo(
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(help="HTTP port; 0 takes a free one.")] = 0,
) -> None:
    """Start a pool here, score a few groups through the handle and HTTP, and shut down."""
    with _errors_on_stderr():
        config = _config(PoolConfig, {"num_replicas": 2, "num_cpus": 0.5}, overrides)
        from polar_ray.demo import run

        run(config, port=port)


def main() -> None:
    """Entry point of the `polar-ray` script."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    cli()


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
        return client.score_table
    config = _config(ScorerConfig, {} if model is None else {"model": model}, overrides)
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


def _config(kind: type[C], values: dict[str, Any], overrides: list[str] | None) -> C:
    try:
        return kind.model_validate({**values, **parse_overrides(overrides or [])})
    except ValidationError as error:
        raise explain(error) from None


def _pool_config(settings: list[str]) -> PoolConfig:
    """A YAML file, if the first argument is one, then key=value pairs over it."""
    import yaml

    values: dict[str, Any] = {}
    if settings and "=" not in settings[0]:
        path, *settings = settings
        if not Path(path).is_file():
            raise ConfigError(f"{path!r} is neither a YAML file nor key=value")
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not YAML: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path} must hold the settings of a pool as key: value")
    return _config(PoolConfig, values, settings)


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


def _wait_for_interrupt() -> None:
    import signal
    import threading

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        stop.wait()
    except KeyboardInterrupt:
        typer.echo("stopping", err=True)


@contextmanager
def _errors_on_stderr() -> Iterator[None]:
    """This project's errors as one line and exit code 2 for settings, 1 for the rest."""
    try:
        yield
    except PolarRayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    except ImportError as error:
        # Names of this package say themselves what to install.
        hint = "; install it with: pip install 'polar-ray[pool]'"
        missing = isinstance(error, ModuleNotFoundError)
        typer.echo(f"error: {error}{hint if missing else ''}", err=True)
        raise typer.Exit(2) from None
    except BrokenPipeError:
        # Whoever read this has enough. Python's own last flush must not complain of it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
