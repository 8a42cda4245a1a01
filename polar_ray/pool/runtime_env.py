"""Ray's runtime environment of replicas: what Ray itself would ignore or find out on a node only
is refused before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from ray.runtime_env import RuntimeEnv, RuntimeEnvConfig

from polar_ray.config_base import show
from polar_ray.errors import ConfigError
from polar_ray.pool.settings import check_environment

NOT_MADE = "Failed to set up runtime environment"

_RAISED = re.compile(r"[\w.]+(Error|Exception): ")

LOCAL = ("working_dir", "py_modules")
"""Fields whose local folders Ray uploads for whole jobs only."""


def check_runtime_env(runtime_env: Mapping[str, Any]) -> None:
    """Raises `ConfigError` with Ray's reason, and where a field is misspelt, which Ray takes
    without a word."""
    known = sorted(name for name in RuntimeEnv.known_fields if not name.startswith("_"))
    for name, value in runtime_env.items():
        if not isinstance(name, str) or not all(map(_can_be_given, _texts(value))):
            raise ConfigError(
                f"runtime_env.{name!s:.40} has a name or value that no process can be given: NUL, "
                "half a character, or a key that is no text"
            )
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"runtime_env.{name}={show(value)}: Ray knows no such field; {hint}"
                f"there are {', '.join(known)}"
            )
    for name in LOCAL:
        for place in _listed(runtime_env.get(name)):
            if "://" not in str(place) or str(place).startswith("file:"):
                raise ConfigError(
                    f"runtime_env.{name}={show(place)} is not to be had on all nodes; Ray takes an "
                    "address for a deployment (s3://, https:// ... .zip)"
                )
    for name in ("py_executable", "image_uri"):
        text = runtime_env.get(name, "given")
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"runtime_env.{name}={show(text)} names nothing")
    variables = runtime_env.get("env_vars")
    if isinstance(variables, Mapping) and any("=" in name or not name for name in variables):
        raise ConfigError("runtime_env.env_vars: a variable's name is empty or has an equals sign")
    options = runtime_env.get("config")
    if isinstance(options, Mapping) and (odd := set(options) - RuntimeEnvConfig.known_fields):
        there = ", ".join(sorted(RuntimeEnvConfig.known_fields))
        raise ConfigError(f"runtime_env.config: Ray knows no {', '.join(odd)}; there are {there}")
    try:
        RuntimeEnv(**runtime_env)
    except (TypeError, ValueError) as error:
        # Without the whole value: it may have passwords.
        raise ConfigError(f"runtime_env: {' '.join(str(error).split()):.300}") from None
    check_environment(runtime_env.get("env_vars") or {})


def why_not_made(message: str) -> str | None:
    """The reason in what Serve says of an environment that Ray could not make: the last errors of
    pip or uv, or Ray's own, out of a hundred lines of traceback. None where it says something
    else."""
    if NOT_MADE not in message:
        return None
    lines = [line.strip() for line in message.splitlines()]
    errors = [line for line in lines if line.lower().startswith("error")]
    raised = [line for line in lines if _RAISED.match(line)]
    return f"{NOT_MADE}: {' '.join(errors[-2:] or raised[-1:])}"


def _texts(value: Any) -> Iterator[Any]:
    """All texts in a value, and keys of dicts whatever they are."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _can_be_given(text: Any) -> bool:
    if not isinstance(text, str) or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
