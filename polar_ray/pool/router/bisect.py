"""Bisecting: a suspect parcel in smaller parts, until the record that ends replicas is alone."""

from __future__ import annotations

from dataclasses import replace

from polar_ray.pool.router.call import Item
from polar_ray.pool.router.work import Parcel

PARTS = 64
"""At most; one record of 4096 is alone after the second time."""


def bisect(parcel: Parcel) -> list[Parcel]:
    """A parcel's unanswered rows as up to `PARTS` parcels of about as many rows each, with the same
    past."""
    parcel.prune()
    largest = -(-parcel.num_rows // PARTS)
    pieces = [piece for item in parcel.items for piece in _pieces(item, largest)]
    parts: list[list[Item]] = [[]]
    size = 0
    for piece in pieces:
        if parts[-1] and size + len(piece.rows) > largest:
            parts.append([])
            size = 0
        parts[-1].append(piece)
        size += len(piece.rows)
    return [parcel.part(items) for items in parts]


def _pieces(item: Item, largest: int) -> list[Item]:
    rows = item.open_rows
    starts = range(0, len(rows), largest)
    cost = -(-item.cost // len(starts))
    return [replace(item, rows=rows[at : at + largest], cost=cost) for at in starts]
