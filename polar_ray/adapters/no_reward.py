"""NoReward: stands where a reward would, and says why there is none when somebody uses it.

For trainers that drop what a reward function raises. A module of its own, as OpenRLHF loads its
adapter by a path, whose classes no other process would find again.
"""

from __future__ import annotations

from typing import NoReturn


class NoReward:
    """Making a number or a tensor of it raises `error`."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def _raise(self, *_: object) -> NoReturn:
        raise self.error

    __len__ = __getitem__ = __iter__ = __float__ = item = _raise

    def __repr__(self) -> str:
        return f"NoReward({self.error})"
