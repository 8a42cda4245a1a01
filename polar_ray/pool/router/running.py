"""Running: which replicas of a pool run, as Serve tells this process.

Serve's request router publishes it, from a thread of its own; this project's router watches it and
acts on it in `membership`. Knows neither Ray nor asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

Replicas = Sequence[str]
"""The name of each."""

_lock = Lock()
_known: dict[str, Replicas] = {}
_watchers: dict[str, list[Callable[[Replicas], object]]] = {}


def publish(pool: str, replicas: Replicas) -> None:
    """Says who runs; from any thread."""
    with _lock:
        _known[pool] = replicas
        for tell in _watchers.get(pool, []):
            tell(replicas)


def watch(pool: str, tell: Callable[[Replicas], object]) -> None:
    """Calls `tell` now, if anything is known, and at each change, from the publisher's thread."""
    with _lock:
        _watchers.setdefault(pool, []).append(tell)
        if pool in _known:
            tell(_known[pool])
