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
        float, typer.Option(help="Difference that the server's precision is forgiven.")
    ] = 0.15,
) -> None:
    """Try a checkpoint, or a server, before trusting its scores. Exit code 1 if a check fails."""
    with errors_on_stderr("engine"):
        if (server is None) != (kind is None):
            raise ConfigError("--server and --type go together")
        given = {"model": str(builtin_model_dir()) if model == "builtin" else model}
        config = parse_settings(ScorerConfig, given, overrides)
        from polar_ray.verify import verify_model, verify_server

        if server is None or kind is None:
            checks = _show(verify_model(config, golden))
        else:
            from polar_ray.verify.served import ServedModel

            served = ServedModel(server, kind, model=served_name)
            checks = _show(verify_server(config, served, tolerance))
            served.close()
        if any(one.status == "fail" for one in checks):
            raise typer.Exit(1)


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
