"""The errors that polar_ray raises, and the HTTP status of each.

    PolarRayError
      ConfigError(ValueError)          a setting, a checkpoint or a path that cannot work
      RecordError(ValueError)          a bad call: not Arrow, wrong columns, malformed
        TooLarge                       a body or batch over its limit
      AuthError                        no token, or a wrong one
      EngineError(RuntimeError)        the model could not run
        OutOfMemory                    on this many tokens at once
        DeviceLost                     nor will it again in this process
        ServersAway                    at present, as the servers that run it are away
        EngineClosed                   as somebody has closed it meanwhile
      ScoreError(RuntimeError)         rows without a score, raised at the caller's wish
      JobStopped(RuntimeError)         an offline job ended early; the same command goes on with it
        ModelChanged                   between two calls of one job: their scores do not compare
      PoolError(RuntimeError)          the pool could not answer
        Overloaded                     full; come back after `retry_after_s`
        ReplicaLost                    a replica died holding work
          Unavailable                  nobody answers where a pool was
        DeadlineExceeded(TimeoutError) no answer within `timeout_s`

A bad *record* is data: its own row says so, with a code of `ROW_ERRORS` and a sentence, and none
of these is raised. All of them survive pickling, because Ray moves them between processes.
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


class ServersAway(EngineError):
    """The servers that an engine relies on do not answer, or not with this model's scores. Nothing
    is wrong with the records; they can be scored once a server is back."""


class EngineClosed(EngineError):
    """The model was let go of while there were records to score. Nothing is wrong with them."""


class ScoreError(PolarRayError, RuntimeError):
    """Some rows have no score and the caller asked for an exception (`on_error="raise"`).

    `rows` maps the row's index to its error text.
    """

    def __init__(self, rows: dict[int, str]) -> None:
        shown = "; ".join(f"row {i}: {text.rstrip('.')}" for i, text in list(rows.items())[:3])
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
    ServersAway: 503,
    EngineClosed: 503,
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


ROW_ERRORS: dict[str, str] = {
    "not_an_object": "the record is not an object with prompt, reference and output",
    "missing_field": "prompt, reference or output is missing",
    "null_field": "prompt, reference or output is null",
    "repeated_key": "a key stands twice in the record's JSON",
    "bad_message": "a field is neither a string nor a list of messages with text content",
    "bad_text": "a field is not valid Unicode text",
    "bad_wrapper": "wrapper is neither sft nor pretrain",
    "bad_template": "a ready-made text is not one that POLAR's template makes",
    "field_too_large": "a field is over max_field_bytes",
    "too_long": "the encoded record is longer than the model can read",
    "nonfinite_score": "the model's score is NaN or infinite",
    "engine_error": "the engine failed on this record",
    "poison": "processes died whenever they scored this record",
}
"""Every code that a row's error can begin with."""


def row_error(code: str, sentence: str) -> str:
    """The text of a row's error; `code` must be one of `ROW_ERRORS`."""
    assert code in ROW_ERRORS, code
    return f"{code}: {sentence}"


def missing_field(name: str) -> str:
    """The row error of a text field that is not there."""
    return row_error("missing_field", f"{name} is missing; send a string")


def null_field(name: str) -> str:
    """The row error of a null text field."""
    return row_error(
        "null_field", f'{name} is null or not there; send a string (an empty one is "")'
    )


def bad_wrapper(value: object) -> str:
    """The row error of a wrapper that POLAR does not have."""
    return row_error("bad_wrapper", f"wrapper is {value!r:.40}; use 'sft' or 'pretrain'")


def place(error: BaseException) -> str:
    """The file, line and function that raised, without the message: it may quote a text."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{last.filename}:{last.lineno} in {last.name}"
