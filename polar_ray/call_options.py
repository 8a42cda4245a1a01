"""What a caller says with a call: how long it may take and how urgent it is."""

from contextlib import suppress
from numbers import Real
from typing import Any, Literal

from polar_ray.errors import RecordError

LONGEST_S = 30 * 24 * 3600.0
"""No call waits longer than a month: operating systems refuse much more, and infinity hangs."""

Priority = Literal["train", "eval", "offline"]
PRIORITIES: tuple[Priority, ...] = ("train", "eval", "offline")
"""Whose work goes first; a rescoring job waits while a training step does not."""


def check_timeout(timeout_s: Any) -> float:
    """A caller's deadline in seconds; `RecordError` for what would hang or never be waited for."""
    if not isinstance(timeout_s, bool) and isinstance(timeout_s, Real):
        with suppress(OverflowError, ValueError, TypeError):  # 10**400 is a Real, too
            seconds = float(timeout_s)
            if 0 < seconds <= LONGEST_S:
                return seconds
    raise RecordError(
        f"timeout_s={_shown(timeout_s)}; it must be a number of seconds above 0 and at most "
        f"{LONGEST_S:.0f}"
    )


def check_priority(priority: Any) -> int:
    """A caller's priority as its rank, 0 first; `RecordError` for one that does not exist."""
    # Arrays and the like have an equality of their own.
    if isinstance(priority, str) and priority in PRIORITIES:
        return PRIORITIES.index(priority)
    raise RecordError(f"priority={_shown(priority)}; it is one of {', '.join(PRIORITIES)}")


def _shown(value: Any) -> str:
    """The beginning of a value's repr on one line, or its type where it has none."""
    try:
        return " ".join(f"{value!r:.40}".split())
    except Exception:  # whatever a stranger's __repr__ raises; int's own, over 4300 digits
        return f"<{type(value).__name__}>"
