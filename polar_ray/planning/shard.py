"""Shards: a batch cut into parts for replicas, and their results merged back.

The router's view of a batch: it never reads text, only which rows share prompt, reference and
wrapper, and how many bytes a row holds. Groups stay whole, costs come out even.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Rows = npt.NDArray[np.int64]


def row_costs(table: pa.Table) -> Rows:
    """int64 [rows]: bytes of text that a row puts into the model; the prompt stands there twice."""
    sizes = {name: byte_lengths(table[name]) for name in ("prompt", "reference", "output")}
    return 2 * sizes["prompt"] + sizes["reference"] + sizes["output"]


def row_groups(table: pa.Table) -> Rows:
    """int64 [rows]: equal numbers for rows with equal prompt, reference and wrapper."""
    key = np.zeros(table.num_rows, dtype=np.int64)
    for name in ("prompt", "reference", "wrapper"):
        if name not in table.column_names:
            continue
        codes = _codes(table[name])
        # Renumbering after each column keeps the product of two counts within int64.
        _, key = np.unique(key * (codes.max(initial=0) + 1) + codes, return_inverse=True)
    return key.astype(np.int64)


class Shards(NamedTuple):
    """How a batch is divided."""

    rows: list[Rows]
    """Row numbers of each shard."""

    costs: list[int]
    """Bytes of each shard; see `row_costs`."""

    group: int | None
    """Equal for undivided batches of one prompt and reference; None for others."""


def shard_table(table: pa.Table, *, max_shards: int, min_cost: int) -> Shards:
    """Divides a request table with `shard`; one that is too small for that is looked at less."""
    total = table.nbytes
    if max_shards == 1 or total < min_cost:
        return Shards([np.arange(table.num_rows)], [total], _group(table))
    costs = row_costs(table)
    rows = shard(costs, row_groups(table), max_shards=max_shards, min_cost=min_cost)
    if len(rows) == 1:
        return Shards(rows, [int(costs.sum())], _group(table))
    return Shards(rows, [int(costs[taken].sum()) for taken in rows], None)


def _group(table: pa.Table) -> int | None:
    """A number for the prompt and reference of a table, if the first and last row agree on them."""
    first, last = (
        (table["prompt"][at].as_py(), table["reference"][at].as_py())
        for at in (0, table.num_rows - 1)
    )
    return hash(first) if first == last else None


def shard(costs: Rows, groups: Rows, *, max_shards: int, min_cost: int) -> list[Rows]:
    """Row numbers of each shard; every row in exactly one, ascending within a shard.

    Groups stay whole unless one is larger than an even share. No more shards than `max_shards`,
    nor than keep each near `min_cost` or above; the largest shard first.
    """
    if len(costs) == 0:
        return []
    total = int(costs.sum())
    count = max(1, min(max_shards, total // max(1, min_cost)))
    blocks = _blocks(costs, groups, largest=-(-total // count))
    # Longest processing time first: each block goes to the lightest shard so far.
    heap = [(0, index) for index in range(min(count, len(blocks)))]
    members: list[list[Rows]] = [[] for _ in heap]
    for cost, rows in sorted(blocks, key=lambda block: -block[0]):
        load, index = heapq.heappop(heap)
        members[index].append(rows)
        heapq.heappush(heap, (load + cost, index))
    loads = {index: load for load, index in heap}
    order = sorted(loads, key=lambda index: -loads[index])
    return [np.sort(np.concatenate(members[index])) for index in order if members[index]]


def merge(rows: Sequence[Rows], tables: Sequence[pa.Table]) -> pa.Table:
    """The shards' result tables as one, in the order of the batch; undoes `shard`.

    Raises `ValueError` where a table has another number of rows than its shard.
    """
    for taken, table in zip(rows, tables, strict=True):
        if len(taken) != table.num_rows:
            raise ValueError(f"{table.num_rows} results for a shard of {len(taken)} rows")
    order = np.argsort(np.concatenate(list(rows)), kind="stable")
    return pa.concat_tables(tables).take(pa.array(order)).combine_chunks()


def _blocks(costs: Rows, groups: Rows, *, largest: int) -> list[tuple[int, Rows]]:
    """(cost, rows) of what moves as one: a group, or pieces of one that costs over `largest`."""
    by_group = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[by_group])) + 1
    blocks: list[tuple[int, Rows]] = []
    for rows in np.split(by_group, borders):
        running = np.cumsum(costs[rows])
        if running[-1] > largest:
            # A row belongs to the piece in which its middle falls.
            pieces = ((running - costs[rows] / 2) // largest).astype(np.int64)
            parts = np.split(rows, np.flatnonzero(np.diff(pieces)) + 1)
        else:
            parts = [rows]
        blocks.extend((int(costs[part].sum()), part) for part in parts)
    return blocks


def byte_lengths(column: pa.ChunkedArray) -> Rows:
    lengths = pc.fill_null(pc.binary_length(column), 0)
    return np.asarray(lengths.to_numpy(), dtype=np.int64)


def _codes(column: pa.ChunkedArray) -> Rows:
    """0 for null, then 1.. by first appearance."""
    encoded = column.combine_chunks().dictionary_encode()
    chunks = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    codes = [pc.fill_null(chunk.indices.cast(pa.int64()), -1).to_numpy() for chunk in chunks]
    return np.concatenate(codes, dtype=np.int64) + 1 if codes else np.zeros(0, dtype=np.int64)
