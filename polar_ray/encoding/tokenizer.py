"""Tokenizers of POLAR checkpoint directories, without remote code.

A tokenizer here only ever sees plain text: control strings inside it stay text. Control tokens are
looked up by name and placed by the encoder. Built from `tokenizer.model` (sentencepiece) or
`tokenizer.json` (tokenizers) and `tokenizer_config.json` directly, so the class names that the
config may carry do not matter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from polar_ray.errors import ConfigError

UNUSED_PIECE = re.compile(r"\[UNUSED_TOKEN_\d+\]")
"""InternLM2's vocabulary keeps its control tokens under such names."""


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

    def splits_between(self, left: str, right: str) -> bool:
        """True only if encode(a + b) == encode(a) + encode(b) whenever a ends with the character
        `left` and b starts with the character `right`. False where that is not known."""
        ...


def load_tokenizer(model_dir: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory; `ConfigError` names what is missing."""
    folder = Path(model_dir)
    if (folder / "tokenizer.model").is_file():
        return SentencePieceTokenizer(folder)
    if (folder / "tokenizer.json").is_file():
        return JsonTokenizer(folder)
    raise ConfigError(f"{folder} holds neither tokenizer.model nor tokenizer.json")


class _Controls:
    """What both kinds share: names of control tokens, and where their ids come from."""

    def __init__(self, ids: dict[str, int], vocab_size: int, source: Path) -> None:
        self._ids = ids
        self._source = source
        self.vocab_size = vocab_size
        self.controls = frozenset(ids)

    def control_id(self, name: str) -> int:
        if name not in self._ids:
            raise ConfigError(
                f"{self._source} has no control token {name!r}; it has "
                f"{', '.join(sorted(self._ids)[:12])}"
            )
        return self._ids[name]


class SentencePieceTokenizer(_Controls):
    """`tokenizer.model`, with every control piece made unmatchable in text."""

    def __init__(self, folder: Path) -> None:
        from sentencepiece import SentencePieceProcessor
        from sentencepiece.sentencepiece_model_pb2 import ModelProto

        proto = ModelProto()
        try:
            proto.ParseFromString((folder / "tokenizer.model").read_bytes())
        except Exception as error:  # protobuf's DecodeError is no public name
            raise ConfigError(
                f"{folder / 'tokenizer.model'} is not a sentencepiece model"
            ) from error
        config = _read_json(folder / "tokenizer_config.json")
        ids = {added["content"]: int(i) for i, added in _added_tokens(config).items()}
        for index, piece in enumerate(proto.pieces):
            if piece.type == piece.USER_DEFINED and (
                UNUSED_PIECE.fullmatch(piece.piece) or piece.piece in ids
            ):
                ids.setdefault(piece.piece, index)
                piece.type = piece.UNUSED
        super().__init__(ids, len(proto.pieces), folder)
        # With a normalizer, text is rewritten across any boundary: then nothing is known to split.
        spec = proto.normalizer_spec
        self._rewrites = bool(
            spec.precompiled_charsmap or spec.add_dummy_prefix or spec.remove_extra_whitespaces
        )
        plain = (p.piece.replace("\u2581", " ") for p in proto.pieces if p.type != p.UNUSED)
        self._joined = _adjacent(plain)
        self._model = SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.bos_id = self._ids.get(_name(config, "bos_token"), self._model.bos_id())
        if self.bos_id < 0:
            raise ConfigError(f"{folder} names no BOS token")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode(text)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._model.decode(list(ids))
        return text

    def splits_between(self, left: str, right: str) -> bool:
        # BPE builds a piece only from pieces of the vocabulary: no piece, no merge.
        return not self._rewrites and (left + right) not in self._joined


class JsonTokenizer(_Controls):
    """`tokenizer.json` of the tokenizers library, without its special tokens."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as FastTokenizer

        spec = _read_json(folder / "tokenizer.json")
        config = _read_json(folder / "tokenizer_config.json")
        added = spec.get("added_tokens") or []
        special = {t["content"]: int(t["id"]) for t in added if t.get("special")}
        special |= {t["content"]: int(i) for i, t in _added_tokens(config).items()}
        spec["added_tokens"] = [t for t in added if t["content"] not in special]
        spec["post_processor"] = None
        try:
            self._model = FastTokenizer.from_str(json.dumps(spec))
        except Exception as error:  # the library raises plain Exception
            raise ConfigError(f"{folder / 'tokenizer.json'} does not load: {error}") from error
        ids = [*special.values(), *self._model.get_vocab().values()]
        super().__init__(special, max(ids) + 1, folder)
        self.bos_id = self.control_id(_name(config, "bos_token"))
        self._splits = _byte_level_pairs(spec)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._model.decode(list(ids), skip_special_tokens=False)
        return text

    def splits_between(self, left: str, right: str) -> bool:
        # White space at the end of a text may belong to the word that follows it.
        if self._splits is None or left.isspace():
            return False
        return (left.encode()[-1], right.encode()[0]) not in self._splits


def _adjacent(pieces: Iterable[str]) -> frozenset[str]:
    """Every pair of characters that stand side by side within a piece."""
    return frozenset(a + b for piece in pieces for a, b in pairwise(piece))


def _byte_level_pairs(spec: dict[str, Any]) -> frozenset[tuple[int, int]] | None:
    """Pairs of bytes side by side within a piece of a byte-level BPE; None for other models."""
    model = spec.get("model") or {}
    if model.get("type") != "BPE" or spec.get("normalizer") is not None:
        return None
    if '"ByteLevel"' not in json.dumps(spec.get("pre_tokenizer")):
        return None
    table = _byte_alphabet()
    pieces = ([table[c] for c in piece if c in table] for piece in model["vocab"])
    return frozenset(pair for piece in pieces for pair in pairwise(piece))


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes the 256 bytes (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(hidden)}


def _added_tokens(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {i: t for i, t in (config.get("added_tokens_decoder") or {}).items() if t.get("special")}


def _name(config: dict[str, Any], key: str) -> str:
    """A special token's text, which the config writes plainly or as an object."""
    value = config.get(key) or "<s>"
    return str(value["content"] if isinstance(value, dict) else value)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return value
