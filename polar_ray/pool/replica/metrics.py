"""A replica's counters as Ray metrics: packs and tokens computed, what the prefix cache saved."""

from __future__ import annotations

from collections.abc import Mapping

from ray.serve import metrics

DESCRIPTIONS = {
    "packs": "Forward passes.",
    "tokens_computed": "Tokens of forward passes; what was shared or remembered counts once.",
    "prefix_hits": "Prefixes that the cache knew.",
    "prefix_misses": "Prefixes that the cache did not know.",
    "prefix_tokens_reused": "Tokens that the prefix cache saved.",
    "halvings": "Times that the device ran out of memory and packs were made smaller.",
    "requests": "Requests to servers.",
    "requests_failed": "Requests that brought no scores and went to another server.",
    "tokens_sent": "Tokens of requests to servers.",
    "servers_aside": "Times that a server was put aside.",
    "failed_updates": "Models that could not be loaded; the one before went on.",
}


class EngineMetrics:
    """Publishes sums that only grow, by what they grew since the last time."""

    def __init__(self) -> None:
        self._counters: dict[str, metrics.Counter] = {}
        self._published: dict[str, int] = {}

    def publish(self, counts: Mapping[str, int]) -> None:
        """`counts` are sums since the engine's start; a counter is made when it first shows."""
        for name, total in counts.items():
            published = self._published.get(name, 0)
            # A new model's engine begins at 0.
            grown = total - published if total >= published else total
            if grown > 0:
                self._counter(name).inc(grown)
            self._published[name] = total

    def _counter(self, name: str) -> metrics.Counter:
        if name not in self._counters:
            self._counters[name] = metrics.Counter(
                f"polar_engine_{name}", description=DESCRIPTIONS.get(name, "")
            )
        return self._counters[name]
