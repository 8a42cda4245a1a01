"""Control tokens: their names and ids, which no text may become. Common to all tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from polar_ray.errors import ConfigError
from polar_ray.json_object import parse, read_object

Id = Annotated[int, Field(ge=0, lt=1 << 20)]
MOST_ADDED = 1 << 14


class AddedToken(BaseModel):
    """A token that is matched in text as a whole, beside those that the vocabulary is made of."""

    content: Annotated[str, Field(min_length=1, max_length=200)]
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class TokenizerConfig(BaseModel):
    """What tokenizer_config.json says of control tokens."""

    bos_token: str | AddedToken | None = None
    added_tokens_decoder: Annotated[dict[Id, AddedToken], Field(max_length=MOST_ADDED)] | None = (
        None
    )

    @property
    def bos(self) -> str:
        """Its name, which the file writes plainly or as an object."""
        token = self.bos_token or "<s>"
        return token if isinstance(token, str) else token.content

    @property
    def controls(self) -> dict[str, int]:
        """Ids of control tokens by name."""
        added = (self.added_tokens_decoder or {}).items()
        return {token.content: number for number, token in added if token.special}


class Controls:
    """Names of control tokens, and which ids are not theirs.

    `ids` are those of control tokens by name, `spelled` what text becomes each id that it can
    become. Raises `ConfigError` where an id is both; `unknown`, which stands for what no piece
    spells, may be.
    """

    def __init__(
        self,
        ids: dict[str, int],
        spelled: Mapping[int, str],
        *,
        unknown: int | None,
        vocab_size: int,
        source: Path,
    ) -> None:
        self._ids = ids
        self._spelled = spelled
        self._source = source
        self.vocab_size = vocab_size
        self.controls = frozenset(ids)
        for name, number in ids.items():
            if number in spelled and number != unknown:
                raise ConfigError(
                    f"{source}: text that spells {spelled[number]!r:.80} can become the control "
                    f"token {name!r:.80} (id {number}), so that a rollout could forge it. Use a "
                    "tokenizer whose control tokens are no pieces that its model matches in text, "
                    "such as the one that the checkpoint was published with"
                )

    def control_id(self, name: str) -> int:
        """The one id of a control token; raises `ConfigError` where there is none."""
        if name not in self._ids:
            raise ConfigError(
                f"{self._source} has no control token {name!r:.80}; it has "
                f"{', '.join(sorted(self._ids)[:12]):.400}"
            )
        return self._ids[name]

    def is_text(self, token: int) -> bool:
        """Whether plain text can become this id."""
        return token in self._spelled


def read_config(folder: Path) -> TokenizerConfig:
    """The tokenizer_config.json of a checkpoint directory."""
    path = folder / "tokenizer_config.json"
    return parse(TokenizerConfig, read_object(path), path)
