"""Affinity: which replica had a group last, and so may have its prefix in its cache."""

from __future__ import annotations

from collections import OrderedDict

MAX_GROUPS = 100_000


class Affinity:
    """Remembers the replicas of the `MAX_GROUPS` groups that were sent last."""

    def __init__(self) -> None:
        self._replicas: OrderedDict[int, str] = OrderedDict()

    def find(self, group: int | None) -> str:
        """The name of the group's replica; "" if it is not known."""
        return "" if group is None else self._replicas.get(group, "")

    def remember(self, group: int | None, name: str) -> None:
        """The group was sent to this replica."""
        if group is None:
            return
        self._replicas[group] = name
        self._replicas.move_to_end(group)
        if len(self._replicas) > MAX_GROUPS:
            self._replicas.popitem(last=False)
