"""Interrupts: what Ctrl-C and SIGTERM do to a command that takes its time to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread

STDERR = 2


@contextmanager
def interrupted_once(said: str | None = None) -> Iterator[None]:
    """The first SIGINT or SIGTERM raises KeyboardInterrupt, and `said` goes to stderr at once; what
    then stops is not disturbed by a second one, and interrupted by a third."""
    if current_thread() is not main_thread():  # which alone may say what signals do
        yield
        return
    signals: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        signals.append(number)
        if len(signals) == 1 and said is not None:
            _say(said)
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


def _say(line: str) -> None:
    """Past Python's own stderr, in whose middle the signal may have come. A terminal shows ^C, and
    perhaps a bar, on the line."""
    with suppress(OSError):
        start = "\n" if os.isatty(STDERR) else ""
        os.write(STDERR, f"{start}{line}\n".encode())
