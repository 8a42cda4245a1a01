"""A check and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from polar_ray.errors import PolarRayError

Status = Literal["pass", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was tried and what came of it."""

    name: str
    status: Status
    detail: str


class Skip(Exception):
    """Raised by a check that cannot be made here; says why."""


class Failed(Exception):
    """Raised by a check that found something wrong; says what."""


def check(name: str, do: Callable[[], str]) -> Check:
    """Runs one check; it returns what it found if all is well."""
    try:
        return Check(name, "pass", do())
    except Skip as error:
        return Check(name, "skip", str(error))
    except (Failed, PolarRayError, OSError, RuntimeError, ValueError, LookupError) as error:
        return Check(name, "fail", str(error) or type(error).__name__)
