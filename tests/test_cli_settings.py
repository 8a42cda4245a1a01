"""The reference of all settings: it is what config.py says, which says something of each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field
from typer.testing import CliRunner

import polar_ray
from polar_ray import config
from polar_ray.cli import cli
from polar_ray.cli.settings import CONFIGS, Setting, reference, rows
from polar_ray.config_base import Config

KINDS = [
    kind for kind in vars(config).values() if isinstance(kind, type) and issubclass(kind, Config)
]


class Inner(Config):
    size_bytes: int = Field(default=64 << 20, ge=1, le=1 << 40)
    """How much."""

    factor: float = Field(default=0.5, gt=0, lt=1)
    """How far."""


class Left(Config):
    type: Literal["left"] = "left"
    """The left one."""

    hot: bool = True
    """Whether it is."""


class Right(Config):
    type: Literal["right"] = "right"
    """The right one."""


class Outer(Config):
    name: str | None = None
    """A name
    on two lines."""

    mode: Literal["a", "b"] = "a"
    """a | b."""

    inner: Inner | None = None
    """Another block."""

    side: Left | Right = Field(default=Left(), discriminator="type")
    """Which."""


def test_the_reference_in_the_package_is_what_config_py_says() -> None:
    written = Path(polar_ray.__file__).with_name("SETTINGS.md").read_text(encoding="utf-8")
    assert written == reference(), "run: polar-ray settings > polar_ray/SETTINGS.md"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_says_what_it_does(kind: type[Config]) -> None:
    assert kind.__doc__
    silent = [name for name, field in kind.model_fields.items() if not field.description]
    assert not silent, f"{kind.__name__}: a docstring is missing below {', '.join(silent)}"


def test_a_row_has_name_values_default_and_meaning() -> None:
    assert list(rows(Outer)) == [
        Setting("name", "str", "none", "A name on two lines."),
        Setting("mode", "a or b", "a", "a | b."),
        Setting("inner", "a block", "none", "Another block."),
        Setting(
            "inner.size_bytes", "int, at least 1, at most 1099511627776", "67108864 (64 MiB)",
            "How much.",
        ),
        Setting("inner.factor", "float, above 0, below 1", "0.5", "How far."),
        Setting("side", "a block", "", "Which."),
        Setting("side.type=left", "", "", "The left one."),
        Setting("side.hot", "bool", "true", "Whether it is."),
        Setting("side.type=right", "", "", "The right one."),
    ]  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_prints_all_settings_of_one_config(name: str) -> None:
    shown = CliRunner().invoke(cli, ["settings", name])
    assert shown.exit_code == 0, shown.output
    for setting in rows(CONFIGS[name]):
        assert f"| `{setting.name}` |" in shown.output


def test_the_command_refuses_another_name() -> None:
    shown = CliRunner().invoke(cli, ["settings", "poole"])
    assert shown.exit_code == 2
    assert "poole: there are settings of scorer, columns, pool" in shown.output


def test_the_command_without_a_name_prints_the_reference() -> None:
    assert CliRunner().invoke(cli, ["settings"]).output == reference()
