"""Call: one caller's batch while it is being scored, and the tables that its rows travel in.

Keeps that every row is answered once, by one model. Knows neither Ray nor replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from polar_ray.planning.shard import Cut, Rows, merge
from polar_ray.pool.policy import EXPRESS_BYTES, Item, Order


@dataclass(slots=True, eq=False)
class Call:
    """A batch, what of it is still to be answered, and what has been."""

    table: pa.Table
    cut: Cut
    order: Order
    done: asyncio.Future[None]
    restarts: int = 0
    digest: str | None = None
    """The model whose scores it has; decided when its first item leaves."""

    left: int = 0
    """Rows without an answer."""

    items: set[Item] = field(default_factory=set)
    answers: list[tuple[Rows, pa.Table]] = field(default_factory=list)

    def begin(self) -> list[Item]:
        """Its rows as items that nobody has answered yet; forgets all that was."""
        self.digest, self.answers, self.left = None, [], self.table.num_rows
        pairs = zip(self.cut.rows, self.cut.costs, strict=True)
        items = [Item(self, rows, cost, self.order, self.cut.group) for rows, cost in pairs]
        self.items = set(items)
        return items

    def answer(self, item: Item, result: pa.Table) -> None:
        """The rows of one item have their scores; the caller hears of the last."""
        item.answered = True
        self.items.discard(item)
        self.answers.append((item.rows, result))
        self.left -= len(item.rows)
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """The caller gets an error instead."""
        if not self.done.done():
            self.done.set_exception(error)

    def result(self) -> pa.Table:
        """All rows in request order, once they are there."""
        if len(self.answers) == 1:
            return self.answers[0][1]
        return merge(*zip(*self.answers, strict=True))


async def gather(items: Sequence[Item]) -> pa.Table:
    """The rows of several items as one request table."""
    if sum(item.cost for item in items) > EXPRESS_BYTES:
        return await asyncio.to_thread(_gather, items)
    return _gather(items)


def _gather(items: Sequence[Item]) -> pa.Table:
    parts = []
    for item in items:
        table = item.call.table
        whole = len(item.rows) == table.num_rows
        parts.append(table if whole else table.take(pa.array(item.rows)))
    if len(parts) == 1:
        return parts[0].combine_chunks()
    # Only some callers name wrappers; the others' are null, which means the same as the default.
    return pa.concat_tables(parts, promote_options="default").combine_chunks()
