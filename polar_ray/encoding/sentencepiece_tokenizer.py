"""`tokenizer.model`: a sentencepiece model, with every control piece made unmatchable in text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from polar_ray.encoding.controls import Controls, read_config
from polar_ray.errors import ConfigError
from polar_ray.json_object import read_bytes

UNUSED_PIECE = re.compile(r"\[UNUSED_TOKEN_\d+\]")
"""InternLM2's vocabulary keeps its control tokens under such names."""

LONGEST_BYTES = 6 << 20
"""Four times InternLM2's."""

MOST_PIECES = 1 << 19

MOST_REPLACEMENT = 64
"""Bytes that a normalizer makes of one character; NFKC makes 33 of U+FDFA."""


class SentencePieceTokenizer(Controls):
    """See `polar_ray.encoding.tokenizer.Tokenizer`."""

    def __init__(self, folder: Path) -> None:
        from sentencepiece import SentencePieceProcessor
        from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

        path, proto = folder / "tokenizer.model", ModelProto()
        content = read_bytes(path, LONGEST_BYTES)
        try:
            proto.ParseFromString(content)
            pieces = [piece.piece for piece in proto.pieces[: MOST_PIECES + 1]]
        except Exception as error:  # protobuf's DecodeError is no public name
            raise ConfigError(f"{path} is not a sentencepiece model") from error
        if not 0 < len(pieces) <= MOST_PIECES:
            raise ConfigError(
                f"{path} has {len(proto.pieces)} pieces, not 1 to {MOST_PIECES}: it is cut off, or "
                "no sentencepiece model"
            )
        if not all(isinstance(piece, str) for piece in pieces):  # protobuf gives bytes instead
            raise ConfigError(f"{path} has pieces that are not UTF-8")
        _check_growth(proto, path)
        config = read_config(folder)
        ids, spelled, unknown = config.controls, dict[int, str](), None
        for index, (piece, text) in enumerate(zip(proto.pieces, pieces, strict=True)):
            if piece.type == piece.USER_DEFINED and (UNUSED_PIECE.fullmatch(text) or text in ids):
                ids.setdefault(text, index)
                piece.type = piece.UNUSED
            if piece.type not in (piece.UNUSED, piece.CONTROL):
                spelled[index] = text
            if piece.type == piece.UNKNOWN:
                unknown = index
        super().__init__(ids, spelled, unknown=unknown, vocab_size=len(pieces), source=folder)
        try:
            self._model = SentencePieceProcessor(model_proto=proto.SerializeToString())
        except Exception as error:  # the library raises plain RuntimeError, or ValueError
            raise ConfigError(f"{path} does not load: {error!s:.300}") from None
        self.bos_id = ids.get(config.bos, self._model.bos_id())
        if self.bos_id < 0:
            raise ConfigError(f"{folder} names no BOS token")
        spec, trained = proto.normalizer_spec, proto.trainer_spec
        # Where a normalizer rewrites text across any boundary, where neighbours that are unknown
        # become one id, and where pieces are chosen by a sum over the whole text, nothing is known.
        self._is_local = trained.model_type == TrainerSpec.BPE and trained.byte_fallback
        if spec.precompiled_charsmap or spec.add_dummy_prefix or spec.remove_extra_whitespaces:
            self._is_local = False
        # Pieces that are no result can be a step on the way to one.
        self._joined = _adjacent(map(_spaced, pieces))

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        ids: list[int] = self._model.encode(text)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        text: str = self._model.decode(list(ids))
        return text

    def splits_between(self, left: str, right: str) -> bool:
        """See `Tokenizer`."""
        # BPE builds a piece only from pieces of the vocabulary: no piece, no merge.
        return self._is_local and _spaced(left + right) not in self._joined


def _check_growth(proto: Any, path: Path) -> None:
    """Raises `ConfigError` for a model that makes much of little text."""
    # Four bytes of its length, a trie, and what characters become, each with a NUL at its end.
    charsmap = proto.normalizer_spec.precompiled_charsmap
    strings = charsmap[4 + int.from_bytes(charsmap[:4], "little") :]
    if (most := max(map(len, strings.split(b"\0")))) > MOST_REPLACEMENT:
        raise ConfigError(
            f"{path}: its normalizer can make one character {most} bytes; at most "
            f"{MOST_REPLACEMENT} are taken"
        )
    if proto.denormalizer_spec.precompiled_charsmap:
        raise ConfigError(f"{path} has a denormalizer, by which cut texts would become others")
    if (size := len(proto.trainer_spec.unk_surface)) > MOST_REPLACEMENT:
        raise ConfigError(
            f"{path}: unk_surface, which stands for what no piece spells, has {size} characters; "
            f"at most {MOST_REPLACEMENT} are taken"
        )


def _spaced(text: str) -> str:
    """sentencepiece writes a space as U+2581, and a U+2581 in the text is then one of them."""
    return text.replace("\u2581", " ")


def _adjacent(pieces: Iterable[str]) -> frozenset[str]:
    """Every pair of characters that stand side by side within a piece."""
    return frozenset(a + b for piece in pieces for a, b in pairwise(piece))
