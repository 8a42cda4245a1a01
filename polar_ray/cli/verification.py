"""`polar-ray verify`: a checkpoint directory, or a running server against it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from polar_ray.assets import builtin_model_dir
from polar_ray.cli.app import Overrides, cli, errors_on_stderr, parse_settings
from polar_ray.config import ScorerConfig
from polar_ray.errors import ConfigError

if TYPE_CHECKING:
    from polar_ray.verify import Check

TOLERANCE = 0.15
STYLES = {"pass": "green", "fail": "bold red", "skip": "dim"}


@cli.command()
def verify(
    model: Annotated[str, typer.Argument(help="Directory or hub name; builtin for the built-in.")],
    overrides: Overrides = None,
    golden: Annotated[
        Path | None,
        typer.Option(help='Known answers, {"cases": [{"input_ids": [..], "reward": ..}]}.'),
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="http://host:port of a server of the same checkpoint.")
    ] = None,
    kind: Annotated[
        Literal["sglang", "vllm", "lmdeploy"] | None, typer.Option("--type", help="Its kind.")
    ] = None,
    served_name: Annotated[
        str | None, typer.Option(help="Name under which the server has the model.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Difference that the server's precision is forgiven; else 0.15."),
    ] = None,
) -> None:
    """Try a checkpoint, or a server, before trusting its scores. Exit code 1 if a check fails."""
    with errors_on_stderr("engine"):
        if (server is None) != (kind is None):
            raise ConfigError("--server and --type go together")
        _check_unused(server, golden, served_name, tolerance)
        given = {"model": str(builtin_model_dir()) if model == "builtin" else model}
        config = parse_settings(ScorerConfig, given, overrides)
        from polar_ray.verify import verify_model, verify_server

        if server is None or kind is None:
            checks = _show(verify_model(config, golden))
        else:
            from polar_ray.verify.served import ServedModel

            served = ServedModel(server, kind, model=served_name)
            checks = _show(
                verify_server(config, served, TOLERANCE if tolerance is None else tolerance)
            )
            served.close()
        if any(one.status == "fail" for one in checks):
            raise typer.Exit(1)


def _check_unused(
    server: str | None, golden: Path | None, served_name: str | None, tolerance: float | None
) -> None:
    """`ConfigError` for options that the checks would not hear of."""
    if server is not None and golden is not None:
        raise ConfigError("--golden is for a checkpoint alone; drop it, or --server")
    options = {"--served-name": served_name, "--tolerance": tolerance}
    given = [name for name, value in options.items() if value is not None]
    if server is None and given:
        raise ConfigError(f"{', '.join(given)}: for a server; give its --server, too")
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise ConfigError(f"--tolerance {tolerance:g}: it must be a number of at least 0")


def _show(checks: Iterable[Check]) -> list[Check]:
    """A table for a person, a JSON line for each check in a pipe; both as they are made. At the end
    how many passed, failed and were skipped: in a pipe on stderr."""
    from polar_ray.verify import summary

    done: list[Check] = []
    if not sys.stdout.isatty():
        from dataclasses import asdict

        import orjson

        for one in checks:
            done.append(one)
            typer.echo(orjson.dumps(asdict(one)))
        typer.echo(summary(done), err=True)
        return done
    from rich.console import Console
    from rich.markup import escape

    from polar_ray.cli.printing import table_of

    console = Console()
    with console.status("checking") as status:
        for one in checks:
            done.append(one)
            status.update(f"{one.name}: {one.status}")
    shown = table_of("check", "", "what was found")
    for one in done:
        style = STYLES[one.status]
        shown.add_row(escape(one.name), f"[{style}]{one.status}[/]", escape(one.detail))
    console.print(shown)
    console.print(summary(done), highlight=False, markup=False)
    return done
