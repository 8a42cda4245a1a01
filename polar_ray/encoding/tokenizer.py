"""Tokenizers of POLAR checkpoint directories, without remote code.

A tokenizer here only ever sees plain text: control strings inside it stay text. Control tokens are
looked up by name and placed by the encoder. Built from `tokenizer.model` (sentencepiece) or
`tokenizer.json` (tokenizers) and `tokenizer_config.json` directly, so the class names that the
config may carry do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from polar_ray.encoding.json_tokenizer import JsonTokenizer
from polar_ray.encoding.sentencepiece_tokenizer import SentencePieceTokenizer
from polar_ray.errors import ConfigError


class Tokenizer(Protocol):
    """Plain text to ids and back."""

    bos_id: int
    vocab_size: int
    controls: frozenset[str]
    """Strings that name a control token; in text they are only text."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without BOS. At most one id for each byte of its UTF-8."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of plain ids; a character cut in the middle becomes U+FFFD."""
        ...

    def control_id(self, name: str) -> int:
        """The one id of a control token; raises `ConfigError` where there is none."""
        ...

    def is_text(self, token: int) -> bool:
        """Whether plain text can become this id."""
        ...

    def splits_between(self, left: str, right: str) -> bool:
        """True only if encode(a + b) == encode(a) + encode(b) whenever a ends with the character
        `left` and b starts with the character `right`. False where that is not known."""
        ...


KINDS: dict[str, Callable[[Path], Tokenizer]] = {
    "tokenizer.model": SentencePieceTokenizer,
    "tokenizer.json": JsonTokenizer,
}
"""Files that are a tokenizer; the first that is there is it."""


def load_tokenizer(model_dir: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory.

    `ConfigError` names what is missing or damaged, or a control token that text could become.
    """
    folder = Path(model_dir)
    for name, kind in KINDS.items():
        if (folder / name).is_file():
            return kind(folder)
    raise ConfigError(f"{folder} holds neither {' nor '.join(KINDS)}")


def has_tokenizer(folder: Path) -> bool:
    """Whether there is one at all; token ids can be scored without."""
    return any((folder / name).is_file() for name in KINDS)
