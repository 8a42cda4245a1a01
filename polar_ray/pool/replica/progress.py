"""Progress: how a replica's threads get on, and when one of them is taken to hang.

A thread hangs if its work takes far longer than the speed explains that was measured in this very
process: hardware, models and lengths differ too much for a fixed limit. Knows no Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Lock

from polar_ray.engine.protocol import Engine, ModelInfo, Pending, Reliant, Scores, waits_for
from polar_ray.planning import Pack

TIMES = 20.0
"""A step may take so many times what the measured speed explains."""

AT_LEAST_S = 10.0
"""Every step may take so long, however small it is."""

UNMEASURED_S = 300.0
"""Every step may take so long before any was measured: caches are cold and kernels uncompiled."""

KEYS_PER_TOKEN = 2048
"""Attention to so many earlier tokens is taken to cost as much as all the rest of a token. Less for
small models, far more for large ones."""

TOKENS_PER_PACK = 32
"""What a pack costs beside its tokens, in tokens: launches, planning. Without it a probe of a few
tokens would make a large pack look slow beyond all measure."""

PACK_WINDOW = 200_000.0
"""Tokens over which the speed of the forward pass is averaged; a probe of a few hardly counts."""

TEXT_WINDOW = 20e6
"""The same for tokenising, in bytes."""

SLOWEST_TEXT_S = 1e-6
"""Seconds for a byte of text that are in order whatever was measured: rows that share their prompt
are tokenised faster than their bytes say."""


class Speed:
    """Seconds per unit of work, averaged over about the last `window` units."""

    def __init__(self, window: float, *, slowest_s: float = 0.0) -> None:
        self._window, self._slowest_s = window, slowest_s
        self._amount = 0.0
        self._took_s = 0.0

    def learn(self, amount: float, took_s: float) -> None:
        """So much work was done in so long."""
        if amount <= 0:
            return
        kept = max(0.0, 1 - amount / self._window)
        self._amount = kept * self._amount + amount
        self._took_s = kept * self._took_s + took_s

    def explains_s(self, amount: float) -> float | None:
        """How long so much work takes by the speed measured; None before any was."""
        if not self._amount:
            return None
        return amount * max(self._slowest_s, self._took_s / self._amount)

    def limit_s(self, amount: float) -> float:
        """How long so much work may take before it is taken to hang."""
        explained = self.explains_s(amount)
        return UNMEASURED_S if explained is None else max(AT_LEAST_S, TIMES * explained)


class Step:
    """Work that one thread has begun and not ended. `end` it once, in whatever thread."""

    def __init__(self, thread: Progress, amount: float) -> None:
        self._thread = thread
        self.amount = amount

    def end(self, done: float = 0.0) -> None:
        """It came to an end; `done` is the amount to measure the speed by, 0 for none."""
        self._thread.end(self, done)


class Progress:
    """How one thread gets on: the steps that it is at, and since when none has come to an end.

    A device has a pack in hand while the next is sent, so that several steps are open at once, and
    what explains the time since the last end is all of them together.
    """

    def __init__(
        self, name: str, unit: str, speed: Speed, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.unit = name, unit
        self._speed, self._clock = speed, clock
        self._lock = Lock()
        self._open: dict[Step, None] = {}
        self._since = 0.0
        self._silent_s = 0.0

    def begin(self, amount: float) -> Step:
        """The thread turns to so much work."""
        step = Step(self, amount)
        with self._lock:
            if not self._open:
                self._since, self._silent_s = self._clock(), 0.0
            self._open[step] = None
        return step

    def end(self, step: Step, done: float) -> None:
        """See `Step.end`; the second time is none."""
        with self._lock:
            if step not in self._open:
                return
            del self._open[step]
            self._silent_s = 0.0
            # The time of what is not measured counts for those beside it: rather slow than fast.
            if done:
                now = self._clock()
                self._speed.learn(done, now - self._since)
                self._since = now

    def tick(self, seconds: float) -> str | None:
        """The watchdog lived so much longer. What to say if the thread hangs, else None."""
        with self._lock:
            if not self._open:
                return None
            self._silent_s += seconds
            amount = sum(step.amount for step in self._open)
            limit_s = self._speed.limit_s(amount)
            if self._silent_s <= limit_s:
                return None
            explained = self._speed.explains_s(amount)
            known = "nothing was measured yet" if explained is None else f"{explained:.2g} s"
            return (
                f"{self.name}: no end of {len(self._open)} step(s) of {amount:.0f} {self.unit} for "
                f"{self._silent_s:.0f} s; the speed measured explains: {known}; "
                f"allowed: {limit_s:.0f} s"
            )


def forward_progress() -> Progress:
    """Of the engine's thread, in tokens."""
    return Progress("forward", "tokens", Speed(PACK_WINDOW))


def encode_progress() -> Progress:
    """Of the tokenizer's thread, in bytes."""
    return Progress("encode", "bytes", Speed(TEXT_WINDOW, slowest_s=SLOWEST_TEXT_S))


class WatchedEngine:
    """An engine whose packs are steps of `progress`, from `submit` to the end of `result`. Those of
    an engine that relies on others are not: it may wait for them for long, and nothing hangs."""

    def __init__(self, engine: Engine, progress: Progress) -> None:
        self._engine, self._progress = engine, progress
        self.name: str = engine.name
        self.info: ModelInfo = engine.info

    def submit(self, pack: Pack) -> Pending:
        """See `Engine`."""
        if isinstance(self._engine, Reliant):
            return self._engine.submit(pack)
        step = self._progress.begin(work(pack))
        before = self.computed()
        try:
            pending = self._engine.submit(pack)
        except BaseException:
            step.end()
            raise
        # What a prefix cache knew must not make the rest look cheap.
        known = pack.num_tokens if before is None else (self.computed() or 0) - before
        return _Watched(pending, step, TOKENS_PER_PACK + known, self)

    def computed(self) -> int | None:
        """Tokens computed since the start; None where the engine does not count them."""
        return self._engine.counters.get("tokens_computed")

    @property
    def waits_for(self) -> str | None:
        """See `Reliant`."""
        return waits_for(self._engine)

    @property
    def counters(self) -> Mapping[str, int]:
        """See `Engine`."""
        return self._engine.counters

    def close(self) -> None:
        """See `Engine`."""
        self._engine.close()


class _Watched:
    """A pack's scores on their way; their arrival ends its step."""

    def __init__(self, pending: Pending, step: Step, done: float, engine: WatchedEngine) -> None:
        self._pending, self._step, self._done, self._engine = pending, step, done, engine

    def result(self) -> Scores:
        """See `Pending`."""
        before = self._engine.computed() or 0
        try:
            scores = self._pending.result()
            # Some engines count a pack's tokens when it is sent, others when it is back.
            self._step.end(self._done + (self._engine.computed() or 0) - before)
        finally:
            self._step.end()
        return scores


def work(pack: Pack) -> float:
    """The most that a pack may cost, in tokens of short records: attention grows with the square
    of a record's length."""
    attended = float(pack.positions.sum()) / KEYS_PER_TOKEN
    return TOKENS_PER_PACK + pack.num_tokens + attended
