"""Reuse: spans of a pack that need not be computed, because an earlier pack had them.

Names spans by all that decides their keys and values, and takes known ones out of a pack. Knows
nothing of where keys and values are held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from polar_ray.planning.pack import Pack, Span


def span_names(pack: Pack, *, scaled_above: int | None = None) -> dict[int, bytes]:
    """For each of `pack.reusable`, a digest of all tokens from its root's first to its own last.

    Records longer than `scaled_above` turn by their own length, which is then part of the name.
    Spans of one name end at the same token, but may begin at different ones.
    """
    return {number: _name(pack, number, scaled_above) for number in pack.reusable}


def _name(pack: Pack, number: int, scaled_above: int | None) -> bytes:
    total = int(pack.lengths[pack.spans[number].start])
    scale = total if scaled_above is not None and total > scaled_above else 0
    path: list[bytes] = []
    while number >= 0:
        start, stop, number = pack.spans[number]
        path.append(pack.ids[start:stop].tobytes())
    return hashlib.blake2b(
        b"".join(reversed(path)), digest_size=16, salt=scale.to_bytes(8, "little")
    ).digest()


def without(pack: Pack, known: Collection[int]) -> Pack:
    """The pack with the tokens of the spans `known` left out: those spans stay, empty."""
    computed = np.ones(pack.num_tokens, dtype=bool)
    for number in known:
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
        reusable=tuple(number for number in pack.reusable if number not in known),
    )
