"""`polar-ray score | serve | demo`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polar_ray.assets import builtin_model_dir
from polar_ray.call_options import Priority
from polar_ray.cli.app import (
    SETTINGS_FILE,
    Overrides,
    SettingsCommand,
    cli,
    errors_on_stderr,
    parse_settings,
)
from polar_ray.cli.backend import (
    INPUT_HELP,
    Address,
    Backend,
    Format,
    Model,
    ProgressKind,
    TimeoutS,
    TokenFile,
)
from polar_ray.cli.interrupts import interrupted_once
from polar_ray.config import PoolConfig, ScoreConfig


@cli.command()
def score(
    file: Annotated[str, typer.Argument(help="- for stdin, or " + INPUT_HELP)],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"{SETTINGS_FILE} columns (output=solution), engine.device=cpu.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    address: Address = None,
    output: Annotated[
        str | None, typer.Option(help="Write to this .parquet, .jsonl, .csv or .arrow file.")
    ] = None,
    keep_columns: Annotated[
        bool, typer.Option("--keep-columns", help="Write the input's columns before the results.")
    ] = False,
    format: Format = None,
    max_errors: Annotated[
        int | None, typer.Option(min=0, help="Stop once more rows than this have no score.")
    ] = None,
    timeout_s: TimeoutS = None,
    token_file: TokenFile = None,
    priority: Annotated[
        Priority | None, typer.Option(help="Whose work goes first at --address; else offline.")
    ] = None,
    progress: Annotated[
        ProgressKind, typer.Option(help="On stderr: a line on a terminal, JSON lines, or nothing.")
    ] = "auto",
) -> None:
    """Score records: one result row per input row, in order.

    Exit codes: 1 no row has a score, more than --max-errors have none, or
    something failed; 2 a mistake in the settings.
    """
    with errors_on_stderr():
        given: dict[str, Any] = {} if model is None else {"model": model}
        given |= {"keep_columns": True} if keep_columns else {}
        config = parse_settings(ScoreConfig, given, settings)
        # Mistakes in names and columns are found before a model is loaded.
        from polar_ray.cli.score import ScoreFile, open_sink
        from polar_ray.data.source import Source

        source = Source(file, format=format)
        sink = open_sink(source, output, as_json=config.keep_columns)
        backend = Backend(config, address, timeout_s, token_file, priority)
        ScoreFile(source, config, backend.prepare(), max_errors).run(sink, output, progress)


@cli.command(cls=SettingsCommand)
def serve(
    settings: Annotated[
        list[str] | None,
        typer.Argument(help=f"{SETTINGS_FILE} num_replicas=4.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the Serve application.")] = "polar",
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; beyond this machine it needs http.token_file."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="HTTP port.")] = 8000,
    route_prefix: Annotated[
        str, typer.Option(help="Path of its own, for a second pool on one cluster, such as /b.")
    ] = "/",
) -> None:
    """Start a pool on this Ray cluster (or a local one) and keep it running."""
    interrupted_once()
    with errors_on_stderr("serve"):
        config = parse_settings(PoolConfig, {}, settings)
        from polar_ray.pool.http.port import check_number
        from polar_ray.pool.local import pool

        port = check_number(port)
        model = config.model or f"{builtin_model_dir().name}, the built-in one"
        typer.echo(f"starting pool {name!r} with model {model}", err=True)
        with pool(config, name=name, host=host, port=port, route_prefix=route_prefix) as url:
            typer.echo(f"pool {name!r} is ready: {url}/score  (docs: {url}/docs)", err=True)
            _wait_for_interrupt()


@cli.command(cls=SettingsCommand)
def demo(
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(help="HTTP port; 0 takes a free one.")] = 0,
) -> None:
    """Start a pool here, score a few groups through the handle and HTTP, and shut down."""
    with errors_on_stderr("serve"):
        config = parse_settings(PoolConfig, {"num_replicas": 2, "num_cpus": 0.5}, overrides)
        from polar_ray.demo import run

        run(config, port=port)


def _wait_for_interrupt() -> None:
    import threading

    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo("stopping", err=True)
