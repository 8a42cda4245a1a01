"""JSON values in and out as they are, integers of any size among them."""

from __future__ import annotations

import json
from typing import Any

import orjson

DIGITS = bytes(ord("0") if chr(byte).isdecimal() else ord(" ") for byte in range(128)) + b" " * 128


def loads(data: bytes | str) -> Any:
    """A value. Raises `ValueError` for what is no JSON, `NaN` included."""
    data = data.encode() if isinstance(data, str) else data
    value = orjson.loads(data)
    # orjson makes floats of integers that take more than 64 bits, which have 19 digits or more: two
    # places in a row of every ninth.
    if b"00" in data[::9].translate(DIGITS) and b"0" * 19 in data.translate(DIGITS):
        value = json.loads(data)
    return value


def dumps(value: Any) -> bytes:
    """Its JSON text. Raises `TypeError` or `ValueError` for what JSON has no way to write."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits, deep nesting, or no value of JSON at all
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except RecursionError:
            raise ValueError("lists and objects stand too deep within each other") from None
        return text.encode()
