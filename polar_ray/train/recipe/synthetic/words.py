"""The word lists of words.json that synthetic texts are made of, and invented words.

The order of the entries matters: with another one, a seed makes other texts. Knows nothing of
policies or tasks.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

LISTS: dict[str, Any] = json.loads(
    Path(__file__).with_name("words.json").read_text(encoding="utf-8")
)
"""List name to words, or to words and what belongs to each."""

NAMES: list[str] = LISTS["names"]
THINGS: list[str] = LISTS["things"]
PLACES: list[str] = LISTS["places"]
ANIMALS: list[str] = LISTS["animals"]
TOPICS: list[str] = LISTS["topics"]
ADJECTIVES: list[str] = LISTS["adjectives"]
VERBS: list[str] = LISTS["verbs"]
NOUNS: list[str] = LISTS["nouns"]
CONNECTIVES: list[str] = LISTS["connectives"]
COLOURS: list[str] = LISTS["colours"]
COUNTRIES: dict[str, str] = LISTS["countries"]
"""Each with its capital."""

COMMON: list[str] = LISTS["common"]
ZH_NAMES: list[str] = LISTS["zh_names"]
ZH_THINGS: list[str] = LISTS["zh_things"]
ZH_TOPICS: list[str] = LISTS["zh_topics"]
ZH_ADJECTIVES: list[str] = LISTS["zh_adjectives"]
ZH_NOUNS: list[str] = LISTS["zh_nouns"]
ZH_VERBS: list[str] = LISTS["zh_verbs"]
ZH_PLACES: list[str] = LISTS["zh_places"]
ZH_CAPITALS: dict[str, str] = LISTS["zh_capitals"]

_STARTS = "b br c ch d dr f fl g gr h j k kl l m n p pl qu r s sh st t tr v w z".split()  # noqa: SIM905
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "oo", "ou"]
_ENDS = ["", "", "n", "r", "l", "s", "m", "t", "nd", "rk", "sh", "x"]


def invented(rng: Random, *, syllables: int = 2) -> str:
    """A lower-case word that no dictionary has, but for luck."""
    parts = (
        rng.choice(_STARTS) + rng.choice(_VOWELS) + rng.choice(_ENDS) for _ in range(syllables)
    )
    return "".join(parts)


def proper(rng: Random) -> str:
    """An invented name, capitalised."""
    return invented(rng, syllables=rng.choice((2, 2, 3))).capitalize()
