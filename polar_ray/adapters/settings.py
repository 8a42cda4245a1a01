"""Settings of an adapter: where the pool is, how long a call may take, what of a response counts.

Trainers load reward functions by their name and pass no settings of their own, so each setting can
be given as an environment variable, `POLAR_RAY_` and its name; where a trainer passes keyword
arguments on, these go first.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from polar_ray.call_options import LONGEST_S, Priority
from polar_ray.client.end_tokens import END_TOKENS
from polar_ray.config_base import Config, explain
from polar_ray.errors import ConfigError

PREFIX = "POLAR_RAY_"

OTHERS = frozenset({
    "IMAGE_BASE", "IMAGE_OPTIONS", "KUBERAY_CRDS", "SGLANG", "TEST_MARK", "TRAINERS",
    "UPSTREAM", "VLLM",
})  # fmt: skip
"""Variables with this prefix that are no adapter's: those of this project's tests."""

StripThink = Literal["polar", "opened", "no"]


class AdapterConfig(Config):
    """What an adapter must know."""

    address: str | None = None
    """"http://host:port" of a pool anywhere."""

    app_name: str | None = None
    """A Serve application of the Ray cluster that the trainer is part of, instead of an address."""

    timeout_s: float = Field(default=600.0, gt=0, le=LONGEST_S)
    """Deadline of one call of the trainer; what has no score by then has none."""

    priority: Priority = "train"
    """Whose work goes first."""

    token_file: Path | None = None
    """The token for an address, in the first line of a file."""

    reference_column: str | None = None
    """The column with the reference, where it is another than the trainer's usual ones."""

    prompt_column: str | None = None
    """The same for the prompt, where the trainer passes columns."""

    strip_think: StripThink = "polar"
    """Reasoning that is not scored. "polar", as POLAR's own reward function: what stands before
    and between the first <think> and its </think>. "opened": also what stands before a </think>
    whose <think> is in the prompt. "no": all is scored."""

    end_tokens: tuple[str, ...] = END_TOKENS
    """What a policy ends with, and some trainers leave at the end of the response: not scored.
    In the environment, separated by spaces."""

    @field_validator("end_tokens", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value


def read_settings(given: Mapping[str, Any] | None = None, **defaults: Any) -> AdapterConfig:
    """The settings of this process: `given`, else the environment's, else `defaults`, else those
    of `AdapterConfig`. Raises `ConfigError`."""
    _check_names(os.environ)
    named = {name: os.environ.get(_variable(name)) for name in AdapterConfig.model_fields}
    here = {name: value for name, value in named.items() if value}
    own = {name: value for name, value in (given or {}).items() if value is not None}
    if {"address", "app_name"} & own.keys():  # whoever names a pool means this one
        here = {k: v for k, v in here.items() if k not in ("address", "app_name")}
    try:
        return AdapterConfig.model_validate({**defaults, **here, **own})
    except ValidationError as error:
        wrong = {str(e["loc"][0]) for e in error.errors() if e["loc"]}
        variables = sorted(_variable(name) for name in wrong & here.keys() - own.keys())
        if not variables:
            raise explain(error) from None
        raise ConfigError(f"{explain(error)} (set by {', '.join(variables)})") from None


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _check_names(environment: Mapping[str, str]) -> None:
    """`ConfigError` for variables that look like settings and are none: a trainer would go on for
    days without what was meant."""
    known = [_variable(name) for name in AdapterConfig.model_fields]
    passed = {*known, *(PREFIX + name for name in OTHERS)}
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in passed:
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{variable} is no setting of an adapter; {meant}")


def own_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a trainer's keyword arguments that are settings: `polar_timeout_s=30` and the like.
    With a prefix, as columns of a data set arrive as arguments, too."""
    return {
        name: values[f"polar_{name}"]
        for name in AdapterConfig.model_fields
        if f"polar_{name}" in values
    }


def check_place(settings: AdapterConfig) -> AdapterConfig:
    """The same; a `ConfigError` says what to set where no pool is named, or two are."""
    if (settings.address is None) == (settings.app_name is None):
        raise ConfigError(
            f"say where the pool is: {PREFIX}ADDRESS=http://host:port, or {PREFIX}APP_NAME=polar "
            f"within its Ray cluster (not both); got address={settings.address!r}, "
            f"app_name={settings.app_name!r}"
        )
    return settings
