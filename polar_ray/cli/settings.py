"""`polar-ray settings`: every setting, as `polar_ray.config` declares and describes it.

`polar-ray settings > polar_ray/SETTINGS.md` writes the reference anew, which a test asks for.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import astuple, dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from polar_ray.cli.app import cli, errors_on_stderr
from polar_ray.config import (
    ColumnsConfig,
    PoolConfig,
    PreferencesConfig,
    RescoreConfig,
    ScoreConfig,
    ScorerConfig,
)
from polar_ray.config_base import Config
from polar_ray.errors import ConfigError

SHARED: dict[str, type[Config]] = {"scorer": ScorerConfig, "columns": ColumnsConfig}
"""Configs that others extend; each stands once in the reference."""

CONFIGS: dict[str, type[Config]] = {
    **SHARED,
    "pool": PoolConfig,
    "score": ScoreConfig,
    "rescore": RescoreConfig,
    "eval": PreferencesConfig,
}

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
INTRODUCTION = """\
# Settings

Made by `polar-ray settings > polar_ray/SETTINGS.md` from `polar_ray/config.py`;
`polar-ray settings pool` prints those of a pool alone.

A setting has the same name on the command line (`engine.device=cpu`), in a YAML file
(`engine: { device: cpu }`) and in Python (`ScorerConfig(engine={"device": "cpu"})`). `none` is
a setting that is not given (`null` in YAML). A name that does not exist is an error.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the reference, in words."""

    name: str
    """Dotted, as on the command line."""

    values: str
    default: str
    meaning: str


@cli.command()
def settings(
    name: Annotated[
        str | None,
        typer.Argument(help=f"One of {', '.join(CONFIGS)}; else all.", show_default=False),
    ] = None,
) -> None:
    """Print every setting: its name, what it may be, its default and what it does."""
    with errors_on_stderr():
        if name is not None and name not in CONFIGS:
            raise ConfigError(f"{name}: there are settings of {', '.join(CONFIGS)}")
    if not sys.stdout.isatty():
        typer.echo(reference() if name is None else _markdown(rows(CONFIGS[name])), nl=False)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    for title in CONFIGS if name is None else [name]:
        columns = (Column("setting", no_wrap=True), "values", "default", "")
        shown = Table(*columns, title=title, title_justify="left")
        for setting in rows(CONFIGS[title]):
            shown.add_row(*(escape(cell) for cell in astuple(setting)))
        Console().print(shown)


def reference() -> str:
    """All settings as Markdown; what several configs share stands once."""
    parts = [INTRODUCTION]
    for name, config in CONFIGS.items():
        extends = [key for key, base in SHARED.items() if issubclass(config, base)]
        without = {field for key in extends if key != name for field in SHARED[key].model_fields}
        parts.append(f"## {name}\n\n{config.__doc__}\n")
        if without:
            links = " and ".join(f"[{key}](#{key})" for key in extends)
            parts.append(f"All settings of {links}, and:\n")
        parts.append(_markdown(rows(config, without=without)))
    return "\n".join(parts)


def rows(
    config: type[Config], prefix: str = "", without: Collection[str] = ()
) -> Iterator[Setting]:
    """The settings of a config in its own order; nested ones after the row of their block."""
    for name, field in config.model_fields.items():
        if name not in without:
            yield _row(prefix + name, field)
            for block in _blocks(field):
                yield from rows(block, f"{prefix}{name}.")


def _row(name: str, field: FieldInfo) -> Setting:
    meaning = " ".join((field.description or "").split())
    values = _choices(field.annotation)
    if values == [field.default]:  # the name of a kind of block: engine.type=stub
        return Setting(f"{name}={field.default}", "", "", meaning)
    if _blocks(field):
        return Setting(name, "a block", "none" if field.default is None else "", meaning)
    kinds = [str(value) for value in values]
    bounds = [
        f"{words} {_number(getattr(bound, key))}"
        for bound in field.metadata
        for key, words in BOUNDS.items()
        if hasattr(bound, key)
    ]
    return Setting(name, ", ".join([" or ".join(kinds), *bounds]), _default(field), meaning)


def _blocks(field: FieldInfo) -> list[type[Config]]:
    kinds = _members(field.annotation)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Config)]


def _choices(annotation: Any) -> list[Any]:
    """The values of a Literal; the names of other types."""
    found: list[Any] = []
    for kind in _members(annotation):
        if get_origin(kind) is Literal:
            found += get_args(kind)
        elif get_origin(kind) is tuple:
            found.append("a list")
        elif kind is not NoneType:
            found.append(kind.__name__)
    return found


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float):
        return str(value) or '""'
    mebibytes, rest = divmod(value, 1 << 20)
    return f"{_number(value)} ({mebibytes:.0f} MiB)" if mebibytes and not rest else _number(value)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _markdown(settings: Iterable[Setting]) -> str:
    lines = ["| setting | values | default | |", "|---|---|---|---|"]
    for setting in settings:
        name, *cells = (cell.replace("|", "\\|") for cell in astuple(setting))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
