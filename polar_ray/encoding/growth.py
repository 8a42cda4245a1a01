"""How much longer a tokenizer makes a text before it is cut into ids, or out of ids again: a bound,
from the tokenizer's description alone.

A tokenizer may have been made to do harm: twenty steps, each of which writes a letter twice, make a
megabyte of it. Such a one is refused before it is built, for its own tokens go through these steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from polar_ray.config_base import show
from polar_ray.errors import ConfigError

MOST_GROWTH = 16
"""Bytes for each byte of a text. Of published tokenizers, those that write spaces as U+2581 need
12, NFKC 11. The library takes some 170 bytes of memory for each."""

MOST_STEPS = 32
"""Each step walks the whole text."""

LONGEST_PIECE = 1000
"""Characters of a piece, which may stand for a single character (that which no piece spells)."""

FACTORS: dict[str, dict[str, int]] = {
    "normalizer": {
        "BertNormalizer": 8,
        "ByteLevel": 2,
        "Lowercase": 2,
        "NFC": 3,
        "NFD": 4,
        "NFKC": 11,
        "NFKD": 11,
        "Nmt": 1,
        "Strip": 1,
        "StripAccents": 1,
    },
    "pre_tokenizer": {
        "BertPreTokenizer": 1,
        "ByteLevel": 4,  # a space before each word, and two bytes for each byte
        "CharDelimiterSplit": 1,
        "Digits": 1,
        "Metaspace": 5,  # a character of up to four bytes before each word
        "Punctuation": 1,
        "Split": 1,
        "UnicodeScripts": 1,
        "Whitespace": 1,
        "WhitespaceSplit": 1,
    },
    "decoder": {
        "BPEDecoder": 2,
        "ByteFallback": 1,
        "ByteLevel": 2,
        "CTC": 2,
        "Fuse": 1,
        "Metaspace": 1,
        "Strip": 1,
        "WordPiece": 2,
    },
}
"""Largest growth by the steps that are known, of UTF-8 and of any character. What is written into a
description, such as a replacement, is counted in `_factor`."""

_INNER = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def check_growth(spec: Mapping[str, Any], source: object) -> None:
    """Raises `ConfigError` for a tokenizer.json that makes too much of a text."""
    grown = {}
    for part in _INNER:
        try:
            grown[part] = growth(part, spec.get(part))
        except ValueError as error:
            raise ConfigError(f"{source}: its {part} {error}") from None
    encoded = [part for part in ("normalizer", "pre_tokenizer") if grown[part] > 1]
    if grown["normalizer"] * grown["pre_tokenizer"] > MOST_GROWTH:
        raise ConfigError(f"{source}: its {' and '.join(encoded)} {_TOO_MUCH}")
    if grown["decoder"] > MOST_GROWTH:
        raise ConfigError(f"{source}: its decoder {_TOO_MUCH}")


_TOO_MUCH = (
    f"can make a text more than {MOST_GROWTH} times as long; use the tokenizer that the checkpoint "
    "was published with"
)


def growth(part: str, description: Any) -> int:
    """A bound of the bytes that a part of a tokenizer makes of one byte. Raises `ValueError` for
    steps that are not known, or too many."""
    total = 1
    for number, step in enumerate(_steps(part, description), 1):
        if number > MOST_STEPS:
            raise ValueError(f"has more than {MOST_STEPS} steps")
        # Further factors say nothing new, and products of thousands of them are long.
        total = min(total * _factor(part, step), MOST_GROWTH + 1)
    return total


def _steps(part: str, description: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a part one after the other, sequences within sequences opened."""
    waiting = [description]
    while waiting:
        step = waiting.pop()
        if step is None:
            continue
        if not isinstance(step, dict):
            raise ValueError(f"has a step that is no object: {show(step)}")
        inner = step.get(_INNER[part])
        if step.get("type") == "Sequence" and isinstance(inner, list):
            waiting += reversed(inner)
        else:
            yield step


def _factor(part: str, step: Mapping[str, Any]) -> int:
    kind = step.get("type")
    if kind == "Replace" and part != "pre_tokenizer":
        pattern = step.get("pattern")
        found = pattern.get("String") if isinstance(pattern, dict) else None
        if found and isinstance(found, str):
            return max(1, -(-_size(step.get("content")) // len(found.encode())))
        return 1 + _size(step.get("content"))  # a pattern may match nothing, between any two bytes
    if kind == "Prepend" and part == "normalizer":
        return 1 + _size(step.get("prepend"))
    if not isinstance(kind, str) or kind not in FACTORS[part]:
        raise ValueError(f"has a step of type {show(kind)}, which is not known here")
    return FACTORS[part][kind]


def _size(text: Any) -> int:
    return len(text.encode()) if isinstance(text, str) else 0
