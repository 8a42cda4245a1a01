"""What callers give as one record or several, as plain lists: numpy's arrays, which readers of
parquet put in the place of lists, become Python's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polar_ray.errors import RecordError
from polar_ray.records import Record


def items_of(data: Any) -> list[Any]:
    """One item or several as a list, whichever sequence holds them; numpy's become Python's."""
    plain = _plain(data)
    if isinstance(plain, str | Mapping | Record):
        return [plain]
    if not isinstance(plain, list | tuple):
        raise RecordError(
            f"data is {type(data).__name__}; give a record (a dict with prompt, reference and "
            "output), or a list of them"
        )
    return list(plain)


def texts_of(data: Any) -> list[str]:
    items = items_of(data)
    for at, item in enumerate(items):
        if not isinstance(item, str):
            raise RecordError(f"row {at} is {type(item).__name__}; encode records first")
    return [str(item) for item in items]


def _plain(value: Any) -> Any:
    """Without arrays, which parquet's readers put in the place of lists."""
    if isinstance(value, str | bytes | Record):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else value
