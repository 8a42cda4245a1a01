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

MAX_ARRAYS = 8
"""Of one body."""

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


@dataclass(frozen=True, slots=True)
class Arrays:
    """All arrays that keys of the body's object hold, in order, and the number of its keys."""

    layouts: list[Layout]
    keys: int


def scan(body: bytes, max_records: int) -> Layout | None:
    """The layout of a body's first array; None where it has none that ends, much beside it, or no
    bottom.

    Raises `TooMany` as soon as there are more records than `max_records`.
    """
    found = _look(body, _Scan(max_records, most_arrays=1))
    return found.arrays[0].layout(found.keys) if found is not None and found.arrays else None


def scan_arrays(body: bytes, max_items: int) -> Arrays | None:
    """The layouts of the arrays of a body; None where one does not end, where there are more than
    `MAX_ARRAYS` or much beside them, or no bottom.

    Raises `TooMany` as soon as one has more items than `max_items`.
    """
    found = _look(body, _Scan(max_items, most_arrays=MAX_ARRAYS))
    if found is None:
        return None
    return Arrays([array.layout(found.keys) for array in found.arrays], found.keys)


def _look(body: bytes, found: _Scan) -> _Scan | None:
    for at in range(0, len(body), WINDOW_BYTES):
        found.look(at, body[at : at + WINDOW_BYTES])
        if found.marks_around > MAX_MARKS_AROUND or found.depth > MAX_DEPTH:
            return None
    return found if all(array.end is not None for array in found.arrays) else None


class _Array:
    """An array, as far as it has been seen; `number` is that of its first mark among all."""

    def __init__(self, begin: int, number: int) -> None:
        self.begin, self.first = begin, number
        self.end: int | None = None
        self.last = 0
        self.num_commas = 0
        self._commas: list[Offsets] = []
        """Between items: places in the body, and numbers among all marks, in two rows."""

    def keep(self, commas: Offsets) -> None:
        self.num_commas += commas.shape[1]
        self._commas.append(commas)

    def layout(self, keys: int) -> Layout:
        commas, numbers = np.concatenate([np.empty((2, 0), np.int64), *self._commas], axis=1)
        return Layout(
            begins=np.concatenate([[self.begin + 1], commas + 1]),
            ends=np.concatenate([commas, [self.end]]),
            marks=np.diff(np.concatenate([[self.first], numbers, [self.last]])) - 1,
            keys=keys,
        )


class _Scan:
    """What the bytes so far have said."""

    def __init__(self, max_records: int, *, most_arrays: int) -> None:
        self._max_records, self._most_arrays = max_records, most_arrays
        self._escaped = False
        self._in_string = False
        self.depth = 0
        self._marks = 0
        self.keys = 0
        self.arrays: list[_Array] = []

    @property
    def marks_around(self) -> int:
        """Marks so far that are not within the arrays."""
        ends = ((array, self._marks if array.end is None else array.last) for array in self.arrays)
        return self._marks - sum(last - array.first - 1 for array, last in ends)

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
        self.keys += int(np.count_nonzero((kinds == _COLON) & (depths == _IN_ROOT)))
        begins = np.flatnonzero((kinds == _LIST) & (depths == _IN_RECORDS))
        ends = np.flatnonzero((steps < 0) & (depths == _IN_ROOT))
        commas = np.flatnonzero((kinds == _COMMA) & (depths == _IN_RECORDS))
        after = 0
        while (array := self._open(begins[begins >= after], places, numbers)) is not None:
            after = int(np.searchsorted(places, array.begin, side="right"))
            end = next(iter(ends[ends >= after].tolist()), len(places))
            within = commas[(commas >= after) & (commas < end)]
            array.keep(np.stack([places[within], numbers[within]]))
            if array.num_commas >= self._max_records:
                raise TooMany
            if end == len(places):
                return
            array.end, array.last = int(places[end]), int(numbers[end])
            after = end + 1

    def _open(self, begins: Offsets, places: Offsets, numbers: Offsets) -> _Array | None:
        """The array that has begun and not ended, or the next one; None where no more are read."""
        if self.arrays and self.arrays[-1].end is None:
            return self.arrays[-1]
        if len(self.arrays) == self._most_arrays or not len(begins):
            return None
        self.arrays.append(_Array(int(places[begins[0]]), int(numbers[begins[0]])))
        return self.arrays[-1]

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
