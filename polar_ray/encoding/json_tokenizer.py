"""`tokenizer.json` of the tokenizers library, without its special tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, Field

from polar_ray.encoding.controls import MOST_ADDED, AddedToken, Controls, Id, read_config
from polar_ray.encoding.growth import LONGEST_PIECE, check_growth
from polar_ray.errors import ConfigError
from polar_ray.json_object import parse, read_object

LONGEST_BYTES = 8 << 20
"""InternLM2's has some 6 MB."""


_Affix = Annotated[str, Field(max_length=200)]


class _Added(AddedToken):
    id: Id


class _AddedTokens(BaseModel):
    added_tokens: Annotated[list[_Added], Field(max_length=MOST_ADDED)] | None = None


class _BytePairs(BaseModel):
    """What decides which pieces of a BPE's vocabulary text can become."""

    merges: list[str | tuple[str, str]]
    dropout: float | None = None
    ignore_merges: bool = False
    continuing_subword_prefix: _Affix | None = None
    end_of_word_suffix: _Affix | None = None

    @property
    def is_plain(self) -> bool:
        """Whether a piece is a character, or what a merge has made of two."""
        affixes = self.continuing_subword_prefix or self.end_of_word_suffix
        return not (affixes or self.ignore_merges or self.dropout)


class JsonTokenizer(Controls):
    """See `polar_ray.encoding.tokenizer.Tokenizer`."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as FastTokenizer

        path = folder / "tokenizer.json"
        spec = read_object(path, LONGEST_BYTES)
        config = read_config(folder)
        added = parse(_AddedTokens, spec, path).added_tokens or []
        special = {token.content: token.id for token in added if token.special} | config.controls
        plain = [token for token in added if token.content not in special]
        spec["added_tokens"] = [
            raw for raw in spec.get("added_tokens") or [] if raw["content"] not in special
        ]
        # Whatever would add to a text's tokens, or take of them.
        spec |= {"post_processor": None, "truncation": None, "padding": None}
        check_growth(spec, path)
        try:
            self._model = FastTokenizer.from_str(orjson.dumps(spec).decode())
            vocab: dict[str, int] = self._model.get_vocab(with_added_tokens=False)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises plain Exception, and panics of Rust
            raise ConfigError(f"{path} does not load: {error!s:.300}") from None
        model = spec["model"]
        longest = max(map(len, vocab), default=0)
        if longest > LONGEST_PIECE:
            raise ConfigError(
                f"{path} has a piece of {longest} characters; at most {LONGEST_PIECE} are taken"
            )
        bpe = parse(_BytePairs, model, path) if model.get("type") == "BPE" else None
        spelled = {vocab[piece]: piece for piece in _reachable(bpe, model, vocab)}
        spelled |= {token.id: token.content for token in plain}
        super().__init__(
            special,
            spelled,
            unknown=vocab.get(str(model.get("unk_token")), model.get("unk_id")),
            vocab_size=max([*vocab.values(), *spelled, *special.values()], default=-1) + 1,
            source=folder,
        )
        self.bos_id = self.control_id(config.bos)
        self._joined = None
        if bpe is not None and bpe.is_plain and _cuts_by_kind(spec):
            self._joined = _byte_pairs(vocab, plain)

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        ids: list[int] = self._model.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        text: str = self._model.decode(list(ids), skip_special_tokens=False)
        return text

    def splits_between(self, left: str, right: str) -> bool:
        """See `Tokenizer`."""
        if self._joined is None or (left.encode()[-1], right.encode()[0]) in self._joined:
            return False
        # Before merging, text is cut into words. Where kinds of characters meet, every usual
        # pattern cuts, and goes on as at the beginning of a text; but white space may belong to
        # what follows it, and the end of a line to the punctuation before it.
        before, after = _kind(left), _kind(right)
        if "" in (before, after) or before in (after, "space"):
            return False
        return not (before == "mark" and right in "\r\n")


def _reachable(
    bpe: _BytePairs | None, model: Mapping[str, Any], vocab: Mapping[str, int]
) -> set[str]:
    """The pieces of a vocabulary that text can become."""
    if bpe is None or not bpe.is_plain:
        return set(vocab)
    merged = {
        "".join(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in bpe.merges
    }
    bytes_of_characters = {f"<0x{byte:02X}>" for byte in range(256)}
    found = {piece for piece in vocab if len(piece) == 1} | merged | bytes_of_characters
    return (found | {str(model.get("unk_token"))}) & vocab.keys()


def _cuts_by_kind(spec: Mapping[str, Any]) -> bool:
    """Whether text is only cut, by patterns, and then taken as bytes: byte-level BPE."""
    top = spec.get("pre_tokenizer") or {}
    *cuts, last = top.get("pretokenizers") or [top]
    return (
        spec.get("normalizer") is None
        and last.get("type") == "ByteLevel"
        and last.get("add_prefix_space") is False
        and all(
            cut.get("type") == "Split"
            and cut.get("behavior") == "Isolated"
            and not cut.get("invert")
            for cut in cuts
        )
    )


def _byte_pairs(
    vocab: Mapping[str, int], added: Sequence[AddedToken]
) -> frozenset[tuple[int, int]] | None:
    """Pairs of bytes that stand side by side within a piece of a byte-level vocabulary. None where
    some bytes have no piece, or where tokens look at what is beside them."""
    table = _byte_alphabet()
    if not table.keys() <= vocab.keys() or any(
        token.lstrip or token.rstrip or token.single_word for token in added
    ):
        return None
    pieces = [[table[c] for c in piece if c in table] for piece in vocab]
    pieces += [list(token.content.encode()) for token in added]
    return frozenset(pair for piece in pieces for pair in pairwise(piece))


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes the 256 bytes (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(hidden)}


def _kind(character: str) -> str:
    """What patterns tell characters apart by; "" where they do not agree."""
    if character in "'\u2019":  # as in "it's", which some cut in one way, some in another
        return ""
    if character in "\n\r\t":
        return "space"
    kinds = {"L": "letter", "N": "number", "P": "mark", "S": "mark", "Z": "space"}
    return kinds.get(unicodedata.category(character)[0], "")
