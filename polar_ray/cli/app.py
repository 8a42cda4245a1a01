"""What every command shares: the application, settings as key=value, errors as one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from typer.core import TyperCommand

from polar_ray.config import PoolConfig
from polar_ray.config_base import Config, explain, parse_overrides
from polar_ray.errors import ConfigError, PolarRayError
from polar_ray.extras import extra_of, install, require

cli = typer.Typer(
    name="polar-ray",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
C = TypeVar("C", bound=Config)

SETTINGS_FILE = "A YAML file of settings, then key=value:"
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help=f"{SETTINGS_FILE} engine.device=cpu.", show_default=False),
]


class SettingsCommand(TyperCommand):
    """A command whose settings are no options: who writes `--model X` is told of `model=X`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The same as ever, once no setting is among the options."""
        options = {name for param in self.params for name in param.opts}
        with errors_on_stderr():
            for i, given in enumerate(args):
                option, _, value = given.partition("=")
                name = option.removeprefix("--").replace("-", "_")
                known = name.partition(".")[0] in PoolConfig.model_fields
                if option.startswith("--") and option not in options and known:
                    value = value or "".join(args[i + 1 : i + 2]) or "VALUE"
                    raise ConfigError(f"{option} is a setting and no option: write {name}={value}")
        return super().parse_args(ctx, args)


def _print_version(asked: bool) -> None:
    if asked:
        from polar_ray import __version__

        typer.echo(f"polar-ray {__version__}")
        raise typer.Exit


@cli.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print it.")
    ] = False,
) -> None:
    """Score rollouts with a POLAR reward model."""


def parse_settings(kind: type[C], given: dict[str, Any], settings: list[str] | None) -> C:
    """A YAML file, if the first argument is one, then `given`, then key=value pairs over it."""
    file, pairs = {}, settings or []
    if pairs and "=" not in pairs[0]:
        file, pairs = _read_yaml(pairs[0]), pairs[1:]
    try:
        return kind.model_validate({**file, **given, **parse_overrides(pairs)})
    except ValidationError as error:
        raise explain(error) from None


def _read_yaml(path: str) -> dict[Any, Any]:
    """Settings of a file. Its name has to say what it is: rows of JSON are YAML, too."""
    import yaml

    if not path.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"{path!r} is neither key=value nor a file of settings, whose name ends in .yaml"
        )
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path!r} to read settings from")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold settings as key: value")
    if "applications" in values:
        from polar_ray.pool.settings import TOKEN_HINT

        raise ConfigError(
            f"{path} is a config of Ray Serve: `serve deploy {path}` takes it ({TOKEN_HINT}); "
            "here, give what stands below its `args:`"
        )
    return values


@contextmanager
def errors_on_stderr(extra: str | None = None) -> Iterator[None]:
    """This project's errors as one line and exit code 2 for settings, 1 for the rest. `extra`: what
    the whole command needs, see `polar_ray.extras`."""
    try:
        if extra is not None:
            require(extra, "this command")
        yield
    except PolarRayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    except ImportError as error:
        found = extra_of(error.name) if isinstance(error, ModuleNotFoundError) else None
        hint = f"; {install(found)}" if found is not None else ""
        typer.echo(f"error: {error}{hint}", err=True)
        raise typer.Exit(2) from None
    except BrokenPipeError:  # whoever read this has enough
        drop_stdout()
        raise typer.Exit(0) from None
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def drop_stdout() -> None:
    """After stdout has failed: Python's own last flush must not complain of it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
