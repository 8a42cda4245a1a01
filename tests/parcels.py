"""Parcels and replicas for tests of the router's decisions."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa

from polar_ray.planning.shard import Shards
from polar_ray.pool.router.call import Call, Item
from polar_ray.pool.router.work import Attempt, Member, Parcel
from polar_ray.scores import score_table
from polar_ray.sizes import SMALL_BYTES

FAT = SMALL_BYTES + 1


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
    urgency = (rank, 1.0, 1)
    call = Call(table, Shards([np.arange(rows)], [cost], None), urgency, cast("Any", None))
    call.open[:], call.left = True, rows
    item = Item(call, np.arange(rows), cost, urgency)
    return Parcel([item], urgency, **options)


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
