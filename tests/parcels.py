"""Parcels and replicas for tests of the router's decisions."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa

from polar_ray.planning.shard import Cut
from polar_ray.pool.router.placement import EXPRESS_BYTES, Member
from polar_ray.pool.router.work import Attempt, Call, Item, Parcel
from polar_ray.records import score_table

FAT = EXPRESS_BYTES + 1


def scored(table: pa.Table, values: Any, digest: str) -> pa.Table:
    """The result of a request table that a replica numbered: float32 [rows], by this model."""
    n = table.num_rows
    return score_table(
        np.asarray(values, np.float32),
        [None] * n,
        truncated=[False] * n,
        num_tokens=[1] * n,
        control_text=[False] * n,
        ids=table["id"],
        provenance={"model_digest": digest},
    )


def parcel(cost: int = FAT, rows: int = 1, rank: int = 0, **options: Any) -> Parcel:
    table = pa.table({"output": ["o"] * rows})
    order = (rank, 1.0, 1)
    call = Call(table, Cut([np.arange(rows)], [cost], None), order, cast("Any", None))
    call.open[:], call.left = True, rows
    item = Item(call, np.arange(rows), cost, order)
    return Parcel([item], order, **options)


def give(member: Member, held: Parcel) -> None:
    """The replica holds this parcel."""
    member.attempts.append(Attempt(member, held, tuple(held.items), 1, 0.0, 60.0))


def members(*held: int) -> list[Member]:
    """m0, m1, ... which hold so many fat parcels."""
    found = [Member(f"m{i}", "d", serving=True) for i in range(len(held))]
    for member, count in zip(found, held, strict=True):
        for _ in range(count):
            give(member, parcel())
    return found
