"""The errors that polar_ray raises, and the HTTP status of each.

    PolarRayError
      ConfigError(ValueError)          a setting, a checkpoint or a path that cannot work
      RecordError(ValueError)          a bad call: not Arrow, wrong columns, malformed
        TooLarge                       a body or batch over its limit
      AuthError                        no token, or a wrong one
      EngineError(RuntimeError)        the model could not run
        OutOfMemory                    on this many tokens at once
        DeviceLost                     nor will it again in this process
      ScoreError(RuntimeError)         rows without a score, raised at the caller's wish
      JobStopped(RuntimeError)         an offline job ended early; the same command goes on with it
        ModelChanged                   between two calls of one job: their scores do not compare
      PoolError(RuntimeError)          the pool could not answer
        Overloaded                     full; come back after `retry_after_s`
        ReplicaLost                    a replica died holding work
          Unavailable                  nobody answers where a pool was
        DeadlineExceeded(TimeoutError) no answer within `timeout_s`

A bad *record* is data: it becomes a sentence in its own row (`polar_ray.records`), never one
of these. All of them survive pickling, because Ray moves them between processes.
"""

from __future__ import annotations

import traceback
from typing import Any


class PolarRayError(Exception):
    """Parent of every error that polar_ray raises on purpose."""


class ConfigError(PolarRayError, ValueError):
    """A setting, checkpoint directory or path that cannot work; raised before any work."""


class RecordError(PolarRayError, ValueError):
    """A call that cannot be read: wrong columns, not Arrow, malformed JSON, no sane deadline."""


class TooLarge(RecordError):
    """A request body or batch over its configured limit."""


class AuthError(PolarRayError):
    """The pool wants a bearer token and got none that it knows."""


class EngineError(PolarRayError, RuntimeError):
    """The model could not be run on an otherwise good batch."""


class OutOfMemory(EngineError):
    """The device has no room for a pack of this size; a smaller one may fit."""


class DeviceLost(EngineError):
    """The device, or a process that drives one, is broken: whatever this process computes from now
    on fails. Nothing is wrong with the records; another process can score them."""


class ScoreError(PolarRayError, RuntimeError):
    """Some rows have no score and the caller asked for an exception (`on_error="raise"`).

    `rows` maps the row's index to its error text.
    """

    def __init__(self, rows: dict[int, str]) -> None:
        shown = "; ".join(f"row {i}: {text}" for i, text in list(rows.items())[:3])
        more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
        super().__init__(
            f"{len(rows)} record(s) have no score: {shown}{more}. "
            'Use on_error="none" or "nan" to get the other rows, or score_table for every row.'
        )
        self.rows = rows

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.rows,))


class JobStopped(PolarRayError, RuntimeError):
    """An offline job ended before its end. What it wrote is whole and is not done again."""


class ModelChanged(JobStopped):
    """A pool's model changed between two calls of one job, whose scores would not compare."""


class PoolError(PolarRayError, RuntimeError):
    """The pool could not answer; the records themselves may be fine."""


class Overloaded(PoolError):
    """The pool is full. `retry_after_s` is when to come back."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (str(self), self.retry_after_s))


class ReplicaLost(PoolError):
    """A replica died while it held this work."""


class Unavailable(ReplicaLost):
    """Nobody answers where a pool was before; it never got this call, and is expected back."""


class DeadlineExceeded(PoolError, TimeoutError):
    """No answer within the caller's `timeout_s`."""


HTTP_STATUS: dict[type[PolarRayError], int] = {
    PolarRayError: 500,
    ConfigError: 500,
    RecordError: 422,
    TooLarge: 413,
    AuthError: 401,
    EngineError: 500,
    OutOfMemory: 500,
    DeviceLost: 500,
    ScoreError: 422,
    JobStopped: 500,
    ModelChanged: 500,
    PoolError: 503,
    Overloaded: 429,
    ReplicaLost: 503,
    Unavailable: 503,
    DeadlineExceeded: 504,
}
"""The one table from error to HTTP status, for servers and clients alike."""

BY_NAME: dict[str, type[PolarRayError]] = {cls.__name__: cls for cls in HTTP_STATUS}
"""Error classes by the `type` that the HTTP error body carries."""


def place(error: BaseException) -> str:
    """The file, line and function that raised, without the message: it may quote a text."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{last.filename}:{last.lineno} in {last.name}"
