"""Prefix caching, the planning half: cache keys of spans, and packs without the cached spans.

A key covers everything that decides a span's keys and values. Knows nothing of where these are
stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from polar_ray.planning.pack import Pack, Span


def prefix_keys(pack: Pack, *, scaled_above: int | None = None) -> dict[int, bytes]:
    """The cache key of each span in `pack.reusable`: a digest of all tokens up to its end.

    The rotary angles of records longer than `scaled_above` depend on their length, which is then
    part of the key. Spans with equal keys end at the same token, but may begin at different ones.
    """
    return {number: _key(pack, number, scaled_above) for number in pack.reusable}


def _key(pack: Pack, number: int, scaled_above: int | None) -> bytes:
    total = int(pack.lengths[pack.spans[number].start])
    scale = total if scaled_above is not None and total > scaled_above else 0
    path: list[bytes] = []
    while number >= 0:
        start, stop, number = pack.spans[number]
        path.append(pack.ids[start:stop].tobytes())
    return hashlib.blake2b(
        b"".join(reversed(path)), digest_size=16, salt=scale.to_bytes(8, "little")
    ).digest()


def without_spans(pack: Pack, cached: Collection[int]) -> Pack:
    """The pack without the tokens of the spans `cached`, which stay in it as empty spans."""
    computed = np.ones(pack.num_tokens, dtype=bool)
    for number in cached:
        start, stop, _ = pack.spans[number]
        computed[start:stop] = False
    places = np.concatenate(([0], np.cumsum(computed)))
    return replace(
        pack,
        ids=pack.ids[computed],
        positions=pack.positions[computed],
        lengths=pack.lengths[computed],
        spans=tuple(Span(int(places[a]), int(places[b]), parent) for a, b, parent in pack.spans),
        ends=places[pack.ends + 1] - 1,
        reusable=tuple(number for number in pack.reusable if number not in cached),
    )
