"""Encoder: a request table to token ids, row by row, the shared parts of a group only once.

Ids are built from parts, `[BOS] p J r <|reward|> p J o [reward]`, with the control ids looked up by
name; nothing in the text can become one of them. The result is token for token what tokenising
POLAR's whole text gives. Knows nothing of engines or of who shares what in a forward pass.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from polar_ray.encoding.template import SEPARATOR, trajectory
from polar_ray.encoding.tokenizer import Tokenizer
from polar_ray.encoding.truncate import Lengths, Limits, cut_prompt, cut_response, keep
from polar_ray.errors import ConfigError, place
from polar_ray.records import WRAPPERS, bad_wrapper, null_field, row_error
from polar_ray.tables import WHOLE

logger = logging.getLogger(__name__)

Ids = npt.NDArray[np.int32]
NO_IDS: Ids = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One record's tokens, or the reason why it has none."""

    ids: Ids
    """int32, BOS first, the reward token last; empty where there is an error."""

    error: str | None = None
    truncated: bool = False
    control_text: bool = False
    """A field spelled a control token; it was encoded as plain text."""

    prefix_length: int = 0
    """Leading ids that all outputs for the same prompt and reference share."""


class Texts(NamedTuple):
    """The three texts of a record after truncation."""

    prompt: str
    reference: str
    output: str
    truncated: bool


class _Prefix(NamedTuple):
    """What the records of a group share, up to the last place where tokens surely split."""

    ids: list[int]
    tail: str
    """Text of the prompt and joint after that point, tokenised together with each output."""


@dataclass(slots=True)
class _Memo:
    """Tokens of one call that several of its rows need."""

    tokens: dict[str, list[int]] = field(default_factory=dict)
    prefixes: dict[tuple[str, str, str], _Prefix] = field(default_factory=dict)


class Encoder:
    """Encodes batches for one tokenizer and one set of limits. Stateless between calls.

    `reward_id` is the model's reward_token_id. Raises `ConfigError` where the tokenizer does not
    know the separator as exactly one id, or where text could become an id that is placed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        limits: Limits,
        *,
        reward_id: int,
        max_field_bytes: int = 1 << 20,
    ) -> None:
        self.tokenizer = tokenizer
        self.limits = limits
        self.max_field_bytes = max_field_bytes
        self.reward_id = reward_id
        self.separator_id = tokenizer.control_id(SEPARATOR)
        self.placed = {"BOS": tokenizer.bos_id, SEPARATOR: self.separator_id, "reward": reward_id}
        """Ids that stand in a record whatever its texts are."""

        for name, number in self.placed.items():
            if tokenizer.is_text(number):
                raise ConfigError(
                    f"the {name} token, id {number}, is one that plain text can become, so that a "
                    "rollout could forge it; config.json and tokenizer do not belong together"
                )
        # One pass over the text instead of one for each of up to 150 names.
        self._marks = tuple({name[0] for name in tokenizer.controls})

    def encode(self, batch: pa.Table) -> list[Encoded]:
        """One `Encoded` for each row of a checked request table, in order."""
        memo = _Memo()
        columns = [batch[name].to_pylist() for name in ("prompt", "reference", "output")]
        wrappers: list[str | None] = (
            batch["wrapper"].to_pylist()
            if "wrapper" in batch.column_names
            else [None] * batch.num_rows
        )
        rows = zip(*columns, wrappers, strict=True)
        return [self._try_row(p, r, o, w or "sft", memo) for p, r, o, w in rows]

    @property
    def provenance(self) -> str:
        """All settings that change which tokens a record becomes, in a few stable words."""
        return f"{self.limits}, field {self.max_field_bytes} B"

    def texts(self, prompt: str, reference: str, output: str) -> Texts:
        """The three texts after truncation, as upstream's `encode` would put them together."""
        return self._truncate(prompt, reference, output, _Memo())

    def _try_row(self, *row: Any) -> Encoded:
        """`_encode_row`; whatever it raises is the row's own error, and says nothing of its text.

        Panics of tokenizers that are written in Rust are no `Exception`.
        """
        try:
            return self._encode_row(*row)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            kind = type(error).__name__
            logger.error("a record cannot be encoded: %s at %s", kind, place(error))
            return Encoded(NO_IDS, row_error("engine_error", f"the tokenizer raised {kind}"))

    def _encode_row(
        self,
        prompt: str | None,
        reference: str | None,
        output: str | None,
        wrapper: str,
        memo: _Memo,
    ) -> Encoded:
        if prompt is None or reference is None or output is None:
            named = {"prompt": prompt, "reference": reference, "output": output}
            return Encoded(NO_IDS, null_field(next(k for k, v in named.items() if v is None)))
        if wrapper not in WRAPPERS and wrapper != WHOLE:
            return Encoded(NO_IDS, bad_wrapper(wrapper))
        if error := self._oversized(prompt, reference, output):
            return Encoded(NO_IDS, error)
        control_text = any(map(self._spells_control, (prompt, reference, output)))
        if wrapper == WHOLE:
            texts = Texts(prompt, reference, output, truncated=False)
        else:
            texts = self._truncate(prompt, reference, output, memo)
        prefix = self._prefix_of(texts, wrapper, memo)
        candidate = self.tokenizer.encode(prefix.tail + texts.output)
        ids = np.array([*prefix.ids, *candidate, self.reward_id], dtype=np.int32)
        if self.limits.window is not None and len(ids) > self.limits.window:
            # Decoding a cut text and encoding it again can make it a few tokens longer.
            sentence = f"{len(ids)} tokens after truncation; the model reads {self.limits.window}"
            return Encoded(NO_IDS, row_error("too_long", sentence), truncated=texts.truncated)
        return Encoded(ids, None, texts.truncated, control_text, len(prefix.ids))

    def _oversized(self, *texts: str) -> str | None:
        for name, text in zip(("prompt", "reference", "output"), texts, strict=True):
            if len(text) * 4 <= self.max_field_bytes:
                continue
            if (size := len(text.encode())) > self.max_field_bytes:
                return row_error(
                    "field_too_large",
                    f"{name} has {size} bytes, max_field_bytes is {self.max_field_bytes}",
                )
        return None

    def _spells_control(self, text: str) -> bool:
        if not any(mark in text for mark in self._marks):
            return False
        return any(name in text for name in self.tokenizer.controls)

    def _truncate(self, prompt: str, reference: str, output: str, memo: _Memo) -> Texts:
        # A text of n bytes has at most n tokens, so most records need no count to be known to fit.
        most = Lengths(*(1 + len(text.encode()) for text in (prompt, reference, output)))
        if keep(most, self.limits) == most:
            return Texts(prompt, reference, output, truncated=False)
        bos = [self.tokenizer.bos_id]
        prompt_ids = bos + self._tokens(prompt, memo)
        reference_ids = bos + self._tokens(reference, memo)
        output_ids = bos + self.tokenizer.encode(output)
        lengths = Lengths(len(prompt_ids), len(reference_ids), len(output_ids))
        kept = keep(lengths, self.limits)
        if kept.prompt < lengths.prompt:
            prompt = self._decode(cut_prompt(prompt_ids, kept.prompt))
        side = self.limits.cut_side
        if kept.reference < lengths.reference:
            reference = self._decode(cut_response(reference_ids, kept.reference, side))
        if kept.output < lengths.output:
            output = self._decode(cut_response(output_ids, kept.output, side))
        return Texts(prompt, reference, output, truncated=kept != lengths)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids[1:] if ids[:1] == [self.tokenizer.bos_id] else ids)

    def _tokens(self, text: str, memo: _Memo) -> list[int]:
        if text not in memo.tokens:
            memo.tokens[text] = self.tokenizer.encode(text)
        return memo.tokens[text]

    def _prefix_of(self, texts: Texts, wrapper: str, memo: _Memo) -> _Prefix:
        key = (texts.prompt, texts.reference, wrapper)
        if key not in memo.prefixes:
            memo.prefixes[key] = self._prefix(texts.prompt, texts.reference, wrapper, memo)
        return memo.prefixes[key]

    def _prefix(self, prompt: str, reference: str, wrapper: str, memo: _Memo) -> _Prefix:
        lead = trajectory(prompt, "", wrapper)
        at = self._last_split(lead)
        head = self._tokens(lead[:at], memo)
        reference_ids = self.tokenizer.encode(lead[at:] + reference)
        first = [self.tokenizer.bos_id, *head, *reference_ids, self.separator_id]
        return _Prefix([*first, *head], lead[at:])

    def _last_split(self, text: str) -> int:
        """The last place in `text` where its tokens split whatever follows; 0 if there is none."""
        splits = self.tokenizer.splits_between
        places = range(len(text) - 1, 0, -1)
        return next((at for at in places if splits(text[at - 1], text[at])), 0)
