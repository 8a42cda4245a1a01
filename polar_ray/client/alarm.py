"""Alarm: what ends a call that blocks where nothing looks at the clock.

One thread for all calls of a process. It sleeps until the first of their deadlines, and ends when
it wakes and none is out. Knows nothing of what it ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from polar_ray.client.forks import remake_in_children

AGAIN_S = 0.1
"""What did not end at its deadline is rung for again, so often."""


@dataclass(slots=True, eq=False)
class _Bell:
    """When somebody is rung for, by `time.monotonic`, and how."""

    at: float
    ring: Callable[[], None]


class Alarm:
    """Rings for those that are not done in time."""

    def __init__(self) -> None:
        self.after_fork()
        remake_in_children(self)

    def after_fork(self) -> None:
        """The calls and the thread are those of the parent."""
        self._changed = threading.Condition()
        self._bells: set[_Bell] = set()
        self._watched = False
        self._wakes_at = 0.0

    @contextmanager
    def at(self, until: float, ring: Callable[[], None]) -> Iterator[None]:
        """Has `ring`, which is short and raises nothing, called from `until` on while the block
        runs, and never after it."""
        bell = _Bell(until, ring)
        with self._changed:
            if not self._watched:
                threading.Thread(target=self._watch, name="polar-ray-alarm", daemon=True).start()
                self._watched = True
            self._bells.add(bell)
            if until < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._bells.discard(bell)  # a call may leave its block in a child that forked

    def _watch(self) -> None:
        with self._changed:
            while self._bells:
                now = time.monotonic()
                for bell in self._bells:
                    if bell.at <= now:
                        bell.ring()
                        bell.at = now + AGAIN_S
                self._wakes_at = min(bell.at for bell in self._bells)
                self._changed.wait(self._wakes_at - now)
            self._watched = False


alarm = Alarm()
