"""What every command shares: the application, settings as key=value, errors as one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from polar_ray.config import Config, explain, parse_overrides
from polar_ray.errors import ConfigError, PolarRayError

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


def parse_config(kind: type[C], values: dict[str, Any], overrides: list[str] | None) -> C:
    """Settings of one kind from a dict and key=value pairs over it."""
    try:
        return kind.model_validate({**values, **parse_overrides(overrides or [])})
    except ValidationError as error:
        raise explain(error) from None


@contextmanager
def errors_on_stderr(extra: str = "pool") -> Iterator[None]:
    """This project's errors as one line and exit code 2 for settings, 1 for the rest."""
    try:
        yield
    except PolarRayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    except ImportError as error:
        # Names of this package say themselves what to install.
        hint = f"; install it with: pip install 'polar-ray[{extra}]'"
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
