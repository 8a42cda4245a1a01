"""What a heartbeat says of a replica whose engine waits for servers elsewhere. Knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping

AWAY = "away"
"""Beside what the replica serves: why it can score nothing at present."""


def with_reason(served: Mapping[str, str], reason: str | None) -> dict[str, str]:
    """What a replica says of itself."""
    return dict(served) if reason is None else {**served, AWAY: reason}


def without_reason(said: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """What it serves, and why it can score nothing, if so."""
    return {key: value for key, value in said.items() if key != AWAY}, said.get(AWAY)
