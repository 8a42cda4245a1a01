"""What a pool is to score: how many records, how long, and how many of a group."""

from __future__ import annotations

from dataclasses import dataclass, replace

from polar_ray.encoding.truncate import Lengths, Limits, keep
from polar_ray.errors import ConfigError

TEMPLATE = 2
"""Tokens of the template within a group's prefix, beside the BOS of each text."""

RATES = (1e-3, 1e7)
MOST = {"prompt": 1 << 24, "reference": 1 << 24, "output": 1 << 24, "group": 4096}
"""Beyond these a plan would be as wrong as the question."""


@dataclass(frozen=True, slots=True)
class Load:
    """Records a second, at the busiest: means, in tokens."""

    records_per_s: float
    prompt: int
    reference: int
    output: int
    group: int = 16
    """Records that share prompt and reference and come together."""

    def __post_init__(self) -> None:
        least, most = RATES
        if not least <= self.records_per_s <= most:
            raise ConfigError(f"--records-per-s {self.records_per_s:g}: from {least:g} to {most:g}")
        for name, most in MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} {getattr(self, name)}: from 1 to {most:,}")

    @property
    def prefix(self) -> int:
        """Tokens that a group's records share: the prompt twice, as POLAR's text has it."""
        return 2 * self.prompt + self.reference + TEMPLATE + 1

    @property
    def own(self) -> int:
        """Tokens of a record beyond them."""
        return self.output + 1

    @property
    def tokens(self) -> int:
        """Of a whole record, as a model sees it."""
        return self.prefix + self.own

    @property
    def text_tokens(self) -> int:
        """Of a record's texts, as callers send them."""
        return self.prompt + self.reference + self.output


def cut(load: Load, limits: Limits) -> tuple[Load, list[str]]:
    """The load as it is scored: the encoder cuts what is too long. Says what of it."""
    # Lengths count the BOS of each text.
    kept = keep(Lengths(load.prompt + 1, load.reference + 1, load.output + 1), limits)
    scored = replace(
        load, prompt=kept.prompt - 1, reference=kept.reference - 1, output=kept.output - 1
    )
    notes = [
        f"{name}: {getattr(load, name):,} tokens are cut to {getattr(scored, name):,} ({limits})"
        for name in ("prompt", "reference", "output")
        if getattr(scored, name) < getattr(load, name)
    ]
    return scored, notes
