"""Suspects: how work under which processes died is cut until the record that ends them is alone.

Numbers only; the rescoring job acts on them. The pool has rules of its own
(`pool.router.isolation`).
"""

from __future__ import annotations

SPLIT = 16
"""Parts into which suspected work is cut: one of 4096 records is alone after three cuts."""

LOSSES_GUILTY = 3
"""Deaths, the last of them alone, after which a single record is given up as their cause."""


def largest_part(num_rows: int) -> int:
    """Rows of the largest of `SPLIT` even parts."""
    return -(-num_rows // SPLIT)


def cut(rows: range) -> list[range]:
    """Rows in order as up to `SPLIT` parts of about as many rows each; a single row is one part."""
    step = max(1, largest_part(len(rows)))
    return [rows[at : at + step] for at in range(0, len(rows), step)]


def is_guilty(losses: int, num_rows: int) -> bool:
    """Whether so many rows, alone with a process that died, are to blame for all `losses`."""
    return losses >= LOSSES_GUILTY and num_rows == 1
