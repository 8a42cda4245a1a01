"""Keys and values of prefixes, kept between packs: a bounded, least-recently-used store.

Trainers score row by row as rollouts finish, so the members of a group arrive apart; with their
prompt and reference remembered, each pays for its output alone. An entry is right for one set of
weights, so an engine that takes new weights starts a new cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from polar_ray.model.attention import Recall, SpanKV
from polar_ray.planning import Pack, prefix_keys, without_spans


@dataclass(frozen=True, slots=True)
class _Entry:
    first: int
    """Position of the first token held; those before it are in other entries."""

    layers: Sequence[SpanKV]

    @property
    def size_bytes(self) -> int:
        return sum(x.element_size() * x.nelement() for kv in self.layers for x in kv)


class PrefixCache:
    """At most `capacity_bytes` of keys and values, of `token_bytes` each; those that a forward is
    to leave are counted before it begins."""

    def __init__(self, capacity_bytes: int, *, token_bytes: int, scaled_above: int | None) -> None:
        self.capacity_bytes = capacity_bytes
        self._token_bytes = token_bytes
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self.tokens_reused = 0
        self._scaled_above = scaled_above
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def recall(self, pack: Pack) -> tuple[Pack, Recall, dict[int, bytes]]:
        """The pack without its cached spans, the cached keys and values, and the spans that `keep`
        stores after the forward, each with its key."""
        keys = prefix_keys(pack, scaled_above=self._scaled_above)
        cached = {}
        for number, key in keys.items():
            if (layers := self._find(pack, number, key)) is not None:
                cached[number] = layers
                self.tokens_reused += len(layers[0].k_SKH)
        self.hits += len(cached)
        self.misses += len(keys) - len(cached)
        rest = without_spans(pack, cached) if cached else pack
        new = {number: key for number, key in keys.items() if number not in cached}
        new = self._make_room(rest, new, {keys[number] for number in cached})
        keep = {number: slice(*rest.spans[number][:2]) for number in new}
        return rest, Recall(cached, keep), new

    def _make_room(self, pack: Pack, new: dict[int, bytes], in_use: set[bytes]) -> dict[int, bytes]:
        """Those of `new` that fit beside the entries in use, after the least recently used of the
        others were dropped for them."""
        room = self.capacity_bytes - sum(self._entries[key].size_bytes for key in in_use)
        fitting, wanted = {}, 0
        for number, key in new.items():
            start, stop, _ = pack.spans[number]
            size = (stop - start) * self._token_bytes
            if wanted + size <= room:
                fitting[number] = key
                wanted += size
        # An entry in use was touched last, so that none of them is dropped.
        while self.size_bytes + wanted > self.capacity_bytes:
            _, dropped = self._entries.popitem(last=False)
            self.size_bytes -= dropped.size_bytes
        return fitting

    def keep(self, pack: Pack, recall: Recall, keys: dict[int, bytes]) -> None:
        """Stores what the forward over `pack` left in `recall`, for which `recall` made room."""
        for number, key in keys.items():
            first = int(pack.positions[pack.spans[number].start])
            self._store(key, _Entry(first, recall.kept[number]))

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self.size_bytes = 0

    def _find(self, pack: Pack, number: int, key: bytes) -> Sequence[SpanKV] | None:
        entry = self._entries.get(key)
        start = pack.spans[number].start
        if entry is None or entry.first > (first := int(pack.positions[start])):
            return None
        self._entries.move_to_end(key)
        skipped = first - entry.first
        return [SpanKV(kv.k_SKH[skipped:], kv.v_SKH[skipped:]) for kv in entry.layers]

    def _store(self, key: bytes, entry: _Entry) -> None:
        if (old := self._entries.pop(key, None)) is not None:
            self.size_bytes -= old.size_bytes
        self._entries[key] = entry
        self.size_bytes += entry.size_bytes
