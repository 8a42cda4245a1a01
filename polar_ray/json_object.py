"""The JSON files of a checkpoint: objects, read within bounds. Their maker may have meant harm.

Depth is bounded by orjson, size here, so that reading costs little, whatever a file holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from polar_ray.config_base import explain
from polar_ray.errors import ConfigError

T = TypeVar("T", bound=BaseModel)

LONGEST_BYTES = 1 << 20
"""Forty times InternLM2's; decoded, JSON can take thirty times its size."""


def read_object(path: Path, most: int = LONGEST_BYTES) -> dict[str, Any]:
    """The object that a file of at most `most` bytes holds; `ConfigError` names the file, and what
    is wrong with it."""
    try:
        value = orjson.loads(read_bytes(path, most))
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return value


def parse(kind: type[T], values: object, path: Path) -> T:
    """What `path` says as a `kind`; `ConfigError` names the file and each value that is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)!s:.500}") from None


def read_bytes(path: Path, most: int) -> bytes:
    """A file's content; `ConfigError` where it has more than `most` bytes."""
    try:
        if not path.is_file():  # nor a pipe, which would be waited for
            raise ConfigError(f"{path} is missing")
        if (size := path.stat().st_size) > most:
            raise ConfigError(f"{path} has {size} bytes; at most {most} are read")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
