"""Watchdog: ends a replica's process once a thread hangs (`progress` says when that is).

A record on which a kernel or the tokenizer hangs keeps its thread for ever, and no exception ever
comes. The process ends with `EXIT_CODE`; the router then hears that the replica died and sends its
work to another, and Serve starts a new one. Time is counted in ticks that the watchdog lived
through, so that the time in which the process was stopped does not count. Knows no Ray.
"""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Callable, Sequence
from threading import Event, Thread

from polar_ray.pool.replica.progress import Progress

EXIT_CODE = 70
"""Of a process that this watchdog ended (EX_SOFTWARE of sysexits.h)."""

TICK_S = 1.0

GIL_S = 120.0
"""A thread that keeps the interpreter's lock for so long ends the process, with code 1. By the
clock, so longer than a process is stopped in passing; Serve misses the replica sooner (90 s)."""

STDERR = 2
"""Written to directly: Serve replaces Python's own, and a thread that hangs may hold the log's
lock."""


def end_process(reason: str) -> None:
    """Ends this process at once, whatever its threads do: one line, all stacks, `EXIT_CODE`."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    line = f"{now} process {os.getpid()} hangs and is ended with code {EXIT_CODE}: {reason}\n"
    os.write(STDERR, line.encode())
    faulthandler.dump_traceback(file=STDERR, all_threads=True)
    os._exit(EXIT_CODE)


class Watchdog:
    """Watches threads while it runs. `close` it before what it watches is taken apart."""

    def __init__(
        self, threads: Sequence[Progress], end: Callable[[str], None] = end_process
    ) -> None:
        self._threads, self._end = threads, end
        self._closed = Event()

    def start(self) -> None:
        """Ticks in a thread of its own from now on."""
        Thread(target=self._run, name="watchdog", daemon=True).start()

    def tick(self) -> None:
        """One more tick was lived through."""
        for thread in self._threads:
            if reason := thread.tick(TICK_S):
                self._end(reason)

    def close(self) -> None:
        """No more ticks."""
        self._closed.set()

    def _run(self) -> None:
        try:
            while not self._closed.wait(TICK_S):
                # A thread in C: it works where none of Python's can run any more.
                faulthandler.dump_traceback_later(GIL_S, exit=True, file=STDERR)
                self.tick()
        finally:
            faulthandler.cancel_dump_traceback_later()
