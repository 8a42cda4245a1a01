"""JSON values in and out as they are: integers of any size, and NaN and infinity, which JSON does
not have and Python's own `json` reads and writes by these names."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

DIGITS = bytes(ord("0") if chr(byte).isdecimal() else ord(" ") for byte in range(128)) + b" " * 128
BEYOND = re.compile(rb"NaN|Infinity|[0-9]{300}")
"""What may be a value though orjson does not read it."""


def loads(data: bytes | str) -> Any:
    """A value. Raises `ValueError` for what is no JSON."""
    data = data.encode() if isinstance(data, str) else data
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        if BEYOND.search(data) is None:
            raise
        return _beyond(data)
    # orjson makes floats of integers that take more than 64 bits, which have 19 digits or more: two
    # places in a row of every ninth.
    if b"00" in data[::9].translate(DIGITS) and b"0" * 19 in data.translate(DIGITS):
        value = json.loads(data)
    return value


def _beyond(data: bytes) -> Any:
    try:
        value = json.loads(data.decode(), parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("lists and objects stand too deep within each other") from None
    except UnicodeEncodeError:
        raise ValueError("it has half a surrogate pair, which is no text") from None
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits:.40} is more than float64 has")
    return value


def dumps(value: Any) -> bytes:
    """Its JSON text. Raises `TypeError` or `ValueError` for what JSON has no way to write."""
    try:
        text = orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits, deep nesting, or no value of JSON at all
        return _dumps(value)
    # orjson writes null for what is not finite.
    return _dumps(value) if b"null" in text and not _is_finite(value) else text


def _dumps(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("lists and objects stand too deep within each other") from None


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_is_finite, value))
