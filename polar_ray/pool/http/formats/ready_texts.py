"""Ready-made texts in a body: one string or a list of them, under one key."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from polar_ray.encoding.ready_made import cut
from polar_ray.pool.http.formats.wire import Row
from polar_ray.pool.http.object_body import JsonObject


def rows_of(body: JsonObject, key: str) -> Iterable[Row]:
    """The rows that the texts under a key are."""
    return map(cut, texts_of(body, key)())


def texts_of(body: JsonObject, key: str) -> Callable[[], Iterable[object]]:
    """Gives the texts under a key, whenever it is called."""
    value = body.values[key]
    return (lambda: body.items(key)) if isinstance(value, list) else (lambda: [value])


def is_one(body: JsonObject, key: str) -> bool:
    """Whether a key holds one text instead of a list."""
    return not isinstance(body.values[key], list)
