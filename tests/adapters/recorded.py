"""What the tests of adapters share: a group as trainers pass it, and stand-ins for their classes.

The trainers are not installed here. Their calls were recorded inside their code, where the same is
tested by `tests/adapters/test_real.py`.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from fake_pool import score_of

ANSWERS = ["four", "4", "5", "no idea"]
ASKED = [{"role": "user", "content": "2+2="}]
WANTED = [score_of("2+2=", "4", text) for text in ANSWERS]


def objects(*values: Any) -> Any:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def stand_in(monkeypatch: pytest.MonkeyPatch, path: str, **names: Any) -> None:
    """A module of a trainer with these names in it."""
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, value in names.items():
        setattr(sys.modules[path], name, value)


class Bytes:
    """A tokenizer whose ids are characters."""

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, ids.tolist()))

    def batch_decode(self, ids: Any, skip_special_tokens: bool) -> list[str]:
        return [self.decode(row[row > 0], skip_special_tokens) for row in ids]


def ids_of(texts: list[str]) -> Any:
    longest = max(map(len, texts))
    return torch.tensor([[*map(ord, text), *[0] * (longest - len(text))] for text in texts])
