"""How long prompt, reference and output may be: upstream's rules as pure arithmetic on lengths.

Lengths count tokens with the BOS token that upstream puts before each of the three. Unlike
upstream, a budget that leaves nothing for the prompt is an error and not a silent wrong cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from polar_ray.config import EncodingConfig
from polar_ray.errors import ConfigError

CutSide = Literal["right", "left"]

CONTROL_BUDGET = 4
"""Tokens that upstream sets aside for the template."""

POLAR_MAX_LENGTH = 16384
POLAR_MAX_RESPONSE_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """The length rules of one encoder, complete and checked."""

    max_length: int
    max_response_length: int
    cut_side: CutSide = "right"
    window: int | None = None
    """Positions that the model has. A cut record may end up a little over max_length, never over
    this."""

    def __post_init__(self) -> None:
        if self.max_response_length < 2:
            raise ConfigError(
                f"max_response_length={self.max_response_length} leaves nothing of a response: its "
                "first token is counted, too; it must be at least 2"
            )
        if self.max_length - CONTROL_BUDGET - 2 * self.max_response_length < 2:
            raise ConfigError(
                f"max_length={self.max_length} leaves no token for the prompt beside two responses "
                f"of max_response_length={self.max_response_length}: max_length must be at least "
                f"{2 * self.max_response_length + CONTROL_BUDGET + 2}"
            )

    def __str__(self) -> str:
        """In a few stable words, for the provenance of results."""
        sizes = f"max_length {self.max_length}, response {self.max_response_length}"
        return f"{sizes}, cut {self.cut_side}"


def limits(config: EncodingConfig, window: int | None) -> Limits:
    """The limits that a config means for a model of `window` positions (None: no bound).

    Raises `ConfigError` where the config asks for more than the model has.
    """
    longest = POLAR_MAX_LENGTH if window is None else min(POLAR_MAX_LENGTH, window)
    max_length = longest if config.max_length is None else config.max_length
    if window is not None and max_length > window:
        raise ConfigError(f"max_length={max_length} is over the model's window of {window} tokens")
    response = config.max_response_length
    if response is None:
        response = min(POLAR_MAX_RESPONSE_LENGTH, max_length // 4)
    return Limits(max_length, response, config.cut_side, window)


class Lengths(NamedTuple):
    """Tokens of a record's three texts, each with its BOS."""

    prompt: int
    reference: int
    output: int


def keep(lengths: Lengths, limits: Limits) -> Lengths:
    """How many tokens of each of the three survive."""
    reference = min(lengths.reference, limits.max_response_length)
    output = min(lengths.output, limits.max_response_length)
    budget = (limits.max_length - CONTROL_BUDGET - reference - output) // 2
    return Lengths(min(lengths.prompt, budget), reference, output)


def cut_prompt(ids: list[int], length: int) -> list[int]:
    """A prompt keeps its end."""
    return ids[len(ids) - length :]


def cut_response(ids: list[int], length: int, side: CutSide) -> list[int]:
    """A response loses its right or its left side."""
    return ids[:length] if side == "right" else ids[len(ids) - length :]
