"""What Ctrl-C and SIGTERM do to a command that takes its time to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from typing import Any

STDERR = 2


def interrupted_once(*numbers: int, said: str = "") -> dict[int, Any]:
    """From now on the first of these signals raises KeyboardInterrupt, after `said` was written to
    stderr; what then stops is not disturbed by a second one, and interrupted by a third. Returns
    the handlers before."""
    signals: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        signals.append(number)
        if len(signals) == 1 and said:
            _say(said)
        if len(signals) != 2:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as it is in a script's background
            signal.signal(number, on_signal)
    return before


@contextmanager
def stopping_is_said(said: str) -> Iterator[None]:
    """`interrupted_once` by SIGINT, for as long as the block."""
    if current_thread() is not main_thread():  # which alone may say what signals do
        yield
        return
    before = interrupted_once(signal.SIGINT, said=said)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    """Past Python's own stderr, which the signal may have come in the middle of. A terminal shows
    ^C, and perhaps a bar, on the line."""
    with suppress(OSError):
        start = "\n" if os.isatty(STDERR) else ""
        os.write(STDERR, f"{start}{line}\n".encode())
