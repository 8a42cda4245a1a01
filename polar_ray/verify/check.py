"""A check and its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was tried and what came of it."""

    name: str
    status: Status
    detail: str


def summary(checks: Sequence[Check]) -> str:
    """How many passed, failed and were skipped, with the names of all that did not pass."""
    counts = []
    for status, word in (("pass", "passed"), ("fail", "failed"), ("skip", "skipped")):
        names = [check.name for check in checks if check.status == status]
        named = f" ({', '.join(names)})" if names and status != "pass" else ""
        counts.append(f"{len(names)} {word}{named}")
    return f"{len(checks)} checks: {', '.join(counts)}"


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
    except Exception as error:  # a report says all that is wrong, not the first alone
        return Check(name, "fail", str(error) or type(error).__name__)
