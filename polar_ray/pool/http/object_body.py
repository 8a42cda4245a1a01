"""A JSON body that is one object with several arrays, decoded without trust: bodies of other
servers.

Its arrays are decoded item by item, as often as they are asked for; everything else at once. A key
that stands there twice is refused. Imports neither ray nor fastapi.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from polar_ray.config import HttpConfig
from polar_ray.errors import RecordError, TooLarge
from polar_ray.pool.http.json_items import MAX_MARKS, decode_items, largest_item, loads
from polar_ray.pool.http.json_scan import Layout, TooMany, scan_arrays

SHAPE = "the body must be a JSON object"


@dataclass(frozen=True, slots=True)
class JsonObject:
    """`values` holds the values of all keys, with an empty list for each array."""

    values: dict[str, Any]
    _arrays: Mapping[str, Layout]
    _body: bytes
    _max_bytes: int

    def count(self, key: str) -> int:
        """How many items an array has."""
        layout = self._arrays[key]
        begin, end = int(layout.begins[0]), int(layout.ends[0])
        empty = len(layout.begins) == 1 and not self._body[begin:end].strip()
        return 0 if empty else len(layout.begins)

    def items(self, key: str) -> Iterator[Any]:
        """The items of an array, decoded as they are asked for; `Unread` for too large ones."""
        return decode_items(self._body, self._arrays[key], self._max_bytes)

    def value(self, key: str) -> Any:
        """The value of one key, an array with its items."""
        if key not in self._arrays:
            return self.values[key]
        if (marks := int(self._arrays[key].marks.sum())) > MAX_MARKS:
            raise TooLarge(f"{key!r} has {marks} values; send less at once")
        return list(self.items(key))


def read_object(body: bytes, limits: HttpConfig, max_field_bytes: int) -> JsonObject:
    """The object that a body is. Raises `RecordError` for anything else, `TooLarge` for an array of
    more than `max_rows` items."""
    try:
        found = scan_arrays(body, limits.max_rows)
    except TooMany:
        message = f"a list has over http.max_rows={limits.max_rows} items; send several requests"
        raise TooLarge(message) from None
    max_bytes = largest_item(max_field_bytes)
    layouts = [] if found is None else found.layouts
    # From the beginning to the first array, from each to the next, and from the last to the end.
    edges = [(0, 0), *((int(a.begins[0]), int(a.ends[-1])) for a in layouts), (len(body), 0)]
    around = b"".join(body[left:right] for (_, left), (right, _) in pairwise(edges))
    if found is None or len(around) > max_bytes:
        raise RecordError(f"{SHAPE}; this does not end, nests too deeply or has too much in it")
    values = loads(around, "the body")
    if not isinstance(values, dict):
        raise RecordError(SHAPE)
    if found.keys != len(values):
        raise RecordError(f"{SHAPE} in which each key stands once")
    arrays = [key for key, value in values.items() if isinstance(value, list)]
    if len(arrays) != len(layouts):
        raise RecordError(f"{SHAPE} with at most {len(layouts)} lists")
    return JsonObject(values, dict(zip(arrays, layouts, strict=True)), body, max_bytes)
