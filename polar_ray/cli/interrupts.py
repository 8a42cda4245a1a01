"""Interrupts: what Ctrl-C and SIGTERM do to a command that takes its time to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupted_once(said: str | None = None) -> Iterator[None]:
    """The first SIGINT or SIGTERM raises KeyboardInterrupt, and `said` goes to stderr at once; what
    then stops is not disturbed by a second one, and interrupted by a third."""
    signals: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        signals.append(number)
        if len(signals) == 1 and said is not None:
            # Not by `print`, which may be what was interrupted.
            os.write(sys.stderr.fileno(), f"{said}\n".encode())
        if len(signals) != 2:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as it is in a script's background
            signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
