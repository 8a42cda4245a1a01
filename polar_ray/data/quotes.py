"""Whether the quotes of a CSV file fit together. Arrow does not ask: it takes text behind a closing
quote, and a quote that nobody closes makes all that follows one field."""

from __future__ import annotations

import re

from polar_ray.data.rows import BOM

FIELD_BYTES = 16 << 20
"""A quoted field that is longer is taken for one that does not end."""


class Quotes:
    """Looks at a file piece by piece. As in RFC 4180, a quote opens a field where it comes first in
    it; elsewhere in a field without quotes it is text."""

    def __init__(self, delimiter: str = ",") -> None:
        ends = f"[{re.escape(delimiter)}\r\n]"
        field = rf'{ends}"[^"]*(?:""[^"]*)*("(?={ends}))?'
        self._fields = re.compile(field.encode())
        """Quoted fields from the byte before them on. Closed rightly if there is group 1."""

        self._held = b"\n"
        """The last byte of what was looked at; with the field behind it if that goes on."""

        self._line_ends = {b"\n": 0, b"\r": 0}
        self._started = False

    def check(self, data: bytes) -> None:
        """The next piece; an empty one is the end. Raises `ValueError` that says in which line a
        field begins whose quotes are wrong."""
        if not self._started:
            data, self._started = data.removeprefix(BOM), True
        text = self._held + (data or b"\n")
        fields = self._fields.finditer(text) if b'"' in text else ()
        wrong = next((field for field in fields if not field.lastindex), None)
        stop = wrong.start() if wrong else len(text) - 1
        for end in self._line_ends:
            self._line_ends[end] += text.count(end, 1, stop + 1)
        self._held = text[stop:]
        if wrong and wrong.end() + 1 < len(text):
            self._refuse("goes on behind the quote that closes it")
        if wrong and (not data or len(self._held) > FIELD_BYTES):
            self._refuse("does not end")

    def _refuse(self, what: str) -> None:
        line = max(self._line_ends.values()) + 1
        raise ValueError(
            f"the quoted field that begins in its line {line} {what}; within quotes, a quote is "
            'written twice ("")'
        )
