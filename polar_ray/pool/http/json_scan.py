"""Where the records of a JSON body begin and end, found without decoding any of it.

A decoder makes up to forty bytes of objects from one byte of JSON, all of them before it can be
asked how many there are. This scan takes a fixed amount of memory, lets other threads run, and
says how large each record is, so that it can be decoded alone or not at all. It checks no syntax:
whoever decodes what lies around the records, and then each of them, has checked all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

WINDOW_BYTES = 1 << 16
"""What is looked at at once; its arrays take up to fifty times as much."""

_QUOTE, _COMMA, _COLON, _LIST = b'",:['
_MARKS = b'",:[]{}'
"""The bytes that mean something outside of strings, and those that begin or end one."""

_IS_MARK = bytes(byte in _MARKS for byte in range(256))
_STEP = bytes(
    {**dict.fromkeys(b"[{", 1), **dict.fromkeys(b"]}", 255)}.get(i, 0) for i in range(256)
)
"""How a byte changes the depth, as an int8."""

MAX_MARKS_AROUND = 1 << 10
"""What a body may hold beside its records, to be told what is wrong with it."""

MAX_DEPTH = 1024
"""What lies deeper is not decoded, nor are decoders able to."""

_IN_ROOT, _IN_RECORDS = 1, 2
"""Depths: within the body's object, and within the array that one of its keys holds."""


class TooMany(Exception):
    """There are more records than were allowed."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The first array in a body's object. Record `i` is `body[begins[i]:ends[i]]`.

    `marks` counts the commas, colons and brackets of each record outside of its strings: it has no
    more values than that and one. `marks_around` counts those around the array, `keys` the keys of
    the body's object.
    """

    begins: Offsets
    ends: Offsets
    marks: Offsets
    keys: int


def scan(body: bytes, max_records: int) -> Layout | None:
    """The layout of a body; None where it has no array that ends, much beside it, or no
    bottom.

    Raises `TooMany` as soon as there are more records than `max_records`.
    """
    found = _Scan(max_records)
    for at in range(0, len(body), WINDOW_BYTES):
        found.look(at, body[at : at + WINDOW_BYTES])
        if found.marks_around > MAX_MARKS_AROUND or found.depth > MAX_DEPTH:
            return None
    return found.layout()


class _Scan:
    """What the bytes so far have said."""

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self._escaped = False
        self._in_string = False
        self.depth = 0
        self._marks = 0
        self._keys = 0
        self._begin: int | None = None
        self._end: int | None = None
        self._commas: list[Offsets] = []
        """Between records: places in the body, and numbers among all marks, in two rows."""

        self._num_commas = 0
        self._edges: list[int] = []
        """The numbers of the marks that begin and end the array."""

    @property
    def marks_around(self) -> int:
        """Marks so far that are not within the array."""
        begin = self._edges[0] if self._begin is not None else self._marks - 1
        end = self._edges[1] if self._end is not None else self._marks
        return self._marks - (end - begin - 1)

    def look(self, at: int, window: bytes) -> None:
        """Goes on with the bytes from `at` on."""
        places, kinds = self._outside(window)
        if not len(places):
            return
        numbers = self._marks + np.arange(len(places))
        places += at
        steps = np.frombuffer(kinds.tobytes().translate(_STEP), np.int8)
        depths = self.depth + np.cumsum(steps, dtype=np.int64)
        self._marks += len(places)
        self.depth = int(depths[-1])
        self._keys += int(np.count_nonzero((kinds == _COLON) & (depths == _IN_ROOT)))
        if self._begin is None:
            self._begin = self._edge(places, numbers, (kinds == _LIST) & (depths == _IN_RECORDS))
        if self._begin is None or self._end is not None:
            return
        inside = places > self._begin
        self._end = self._edge(places, numbers, inside & (steps < 0) & (depths == _IN_ROOT))
        if self._end is not None:
            inside &= places < self._end
        commas = inside & (kinds == _COMMA) & (depths == _IN_RECORDS)
        self._keep(np.stack([places[commas], numbers[commas]]))

    def layout(self) -> Layout | None:
        """What was found, once all bytes have been looked at."""
        if self._begin is None or self._end is None:
            return None
        commas, numbers = np.concatenate([np.empty((2, 0), np.int64), *self._commas], axis=1)
        first, last = self._edges
        return Layout(
            begins=np.concatenate([[self._begin + 1], commas + 1]),
            ends=np.concatenate([commas, [self._end]]),
            marks=np.diff(np.concatenate([[first], numbers, [last]])) - 1,
            keys=self._keys,
        )

    def _edge(self, places: Offsets, numbers: Offsets, which: npt.NDArray[np.bool_]) -> int | None:
        found = np.flatnonzero(which)
        if not len(found):
            return None
        self._edges.append(int(numbers[found[0]]))
        return int(places[found[0]])

    def _keep(self, commas: Offsets) -> None:
        self._num_commas += commas.shape[1]
        if self._num_commas >= self._max_records:
            raise TooMany
        self._commas.append(commas)

    def _outside(self, window: bytes) -> tuple[Offsets, Bytes]:
        """Places and kinds of the marks outside of strings."""
        text = self._without_escapes(window)
        places = np.flatnonzero(np.frombuffer(text.translate(_IS_MARK), np.bool_))
        kinds = np.frombuffer(text, np.uint8)[places]
        quotes = kinds == _QUOTE
        in_string = np.logical_xor.accumulate(quotes) ^ self._in_string
        if len(places):
            self._in_string = bool(in_string[-1])
        outside = ~(quotes | in_string)
        return places[outside], kinds[outside]

    def _without_escapes(self, window: bytes) -> bytes:
        """As long, without backslashes and quotes that a backslash precedes."""
        if self._escaped:
            window = b"_" + window[1:]
        # From the left, as a decoder pairs them: what is left of a run escapes what comes after it.
        window = window.replace(rb"\\", b"__").replace(rb"\"", b"__")
        self._escaped = window.endswith(b"\\")
        return window
