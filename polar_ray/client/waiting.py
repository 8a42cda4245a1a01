"""Waiting: a caller whose call is out for long is told why, while it waits.

One thread for all calls of a client, and only while there are any. Knows nothing of how the pool
is asked.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from polar_ray.client.forks import remake_in_children

logger = logging.getLogger(__name__)

EVERY_S = 10.0
"""A call that is out for longer is looked after, so often."""

AGAIN_S = 60.0
"""A reason that stays the same is said again."""


class News:
    """What of a series of reasons is worth saying."""

    def __init__(self) -> None:
        self._said = ""
        self._said_at = float("-inf")

    def worth_saying(self, reason: str, now: float) -> bool:
        """Whether a reason is another than the one said last, figures apart, or is due again."""
        kind = re.sub(r"\d+", "", reason)
        if kind == self._said and now - self._said_at < AGAIN_S:
            return False
        self._said, self._said_at = kind, now
        return True


class Waiting:
    """Asks why while calls are out for long, and tells it; from a thread of its own. `ask` raises
    nothing."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask = ask
        self.tell: Callable[[str], None] = logger.warning
        self.after_fork()
        remake_in_children(self)

    def after_fork(self) -> None:
        """The calls and the thread are those of the parent."""
        # A collected call leaves its block in whatever thread lets go of it, this lock held or not.
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._began: dict[int, tuple[float, AbstractEventLoop | None]] = {}
        """When each call that is out began, the oldest first, and the loop that awaits it."""

        self._watched = False

    @contextmanager
    def call(self, loop: AbstractEventLoop | None = None) -> Iterator[None]:
        """One call's time; `loop` is the one that awaits it, if any."""
        with self._lock:
            number = next(self._numbers)
            self._began[number] = time.monotonic(), loop
            if not self._watched:
                threading.Thread(target=self._watch, name="why-waiting", daemon=True).start()
                self._watched = True  # once it runs: starting may be interrupted
        try:
            yield
        finally:
            with self._lock:
                self._began.pop(number, None)  # a call may leave its block in a child that forked

    def forget_closed(self) -> None:
        """Forgets calls whose event loop was closed while they were out: they never return."""
        with self._lock:
            for number, (_, loop) in list(self._began.items()):
                if loop is not None and loop.is_closed():
                    self._began.pop(number, None)

    def _watch(self) -> None:
        news = News()
        while True:
            time.sleep(EVERY_S)
            self.forget_closed()
            with self._lock:
                if not self._began:
                    self._watched = False
                    return
                oldest, _ = next(iter(self._began.values()))
            if time.monotonic() - oldest >= EVERY_S:
                self._look(news)

    def _look(self, news: News) -> None:
        reason = self._ask()
        # The call may have come back while the pool was asked.
        if self._began and news.worth_saying(reason, time.monotonic()):
            self.tell(f"waiting: {reason}")
