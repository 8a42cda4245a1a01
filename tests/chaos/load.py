"""Load for a pool under fire: many callers, records that are all different, and an account of what
became of each of them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from chaos.observe import GUARD_S, running, stats, until
from processes import replica_pids

from polar_ray.client import Client
from polar_ray.config import PoolConfig, ScorerConfig, StubEngineConfig
from polar_ray.errors import PolarRayError
from polar_ray.pool.local import pool
from polar_ray.records import provenance
from polar_ray.scorer import Scorer

CALLERS = 12


def stub_config(model: str, **changes: Any) -> PoolConfig:
    """Three replicas that take about a quarter of a second for a batch of 250."""
    engine = StubEngineConfig(seconds_per_token=2e-5)
    values = {"model": model, "num_replicas": 3, "num_cpus": 0.1, "engine": engine, **changes}
    return PoolConfig(**values)


def stub_pool(name: str, model: str, **changes: Any) -> AbstractContextManager[str]:
    """A pool of `stub_config`; gives its address."""
    return pool(stub_config(model, **changes), name=name, route_prefix=f"/{name}")


def batch(start: int, size: int) -> pa.Table:
    """Records `start` and following, in groups of 8, no two of them equal."""
    rows = range(start, start + size)
    return pa.table(
        {
            "prompt": [f"Add {i // 8} and {i // 8}." for i in rows],
            "reference": [f"{i // 8 * 2}" for i in rows],
            "output": [f"I think it is {i}." for i in rows],
            "id": pa.array(rows, pa.int64()),
        }
    )


@dataclass
class Account:
    """What callers got."""

    rows: int = 0
    lost: int = 0
    wrong: int = 0
    errors: int = 0
    seen: set[int] = field(default_factory=set)
    duplicated: int = 0
    latencies: list[float] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)
    calls: int = 0
    """Calls that have ended, with scores or without."""

    progress: asyncio.Event = field(default_factory=asyncio.Event)
    kills: int = 0
    why: Counter[str] = field(default_factory=Counter)
    """Errors of the calls that were lost."""

    @property
    def worst_s(self) -> float:
        return max(self.latencies, default=0.0)

    def end(self) -> None:
        """One more call has ended."""
        self.calls += 1
        self.progress.set()

    async def ended(self, more: int) -> None:
        """Returns once so many more calls have ended: what tests count instead of seconds."""
        enough = self.calls + more
        while self.calls < enough:
            self.progress.clear()
            await self.progress.wait()

    def summary(self) -> str:
        """One line for people."""
        p50, p99 = np.percentile(self.latencies, [50, 99]) if self.latencies else (0, 0)
        return (
            f"{self.rows} records, {self.kills} hits: {self.lost} lost, {self.duplicated} "
            f"duplicated, {self.wrong} wrong, {self.errors} row errors; latency p50 {p50:.2f} s, "
            f"p99 {p99:.2f} s, worst {self.worst_s:.2f} s"
            + "".join(f"; {count} times {error}" for error, count in self.why.most_common(3))
        )


class Oracle:
    """What stub engines score, by the digest of the model that they stand in for."""

    def __init__(self, *folders: Path, salts: tuple[int, ...] = (0,)) -> None:
        configs = (
            ScorerConfig(model=str(folder), engine=StubEngineConfig(salt=salt))
            for folder in folders
            for salt in salts
        )
        self._scorers = {scorer.info.digest: scorer for scorer in map(Scorer, configs)}

    def check(self, table: pa.Table, result: pa.Table, account: Account) -> None:
        """Adds one answered batch to an account."""
        digest = provenance(result)["model_digest"]
        expected = self._scorers[digest].score(table)
        ids = result["id"].to_pylist()
        account.rows += result.num_rows
        account.digests.add(digest)
        account.lost += table.num_rows - result.num_rows
        account.duplicated += sum(number in account.seen for number in ids)
        account.seen.update(ids)
        account.errors += result["score"].null_count
        found = zip(
            ids,
            result["score"].to_pylist(),
            table["id"].to_pylist(),
            expected["score"].to_pylist(),
            strict=True,
        )
        account.wrong += sum(
            got != sent or (score is not None and score != right)
            for got, score, sent, right in found
        )


def assert_exact(account: Account, records: int) -> None:
    """Nothing is missing, twice or wrong, and something was hit."""
    assert account.kills > 0, "nothing was hit: the test shows nothing"
    assert (account.lost, account.duplicated, account.wrong, account.errors) == (0, 0, 0, 0)
    assert account.rows >= records
    assert len(account.seen) == account.rows


Call = Callable[[pa.Table], Awaitable[pa.Table]]


async def run_load(
    call: Call,
    oracle: Oracle,
    *,
    records: int,
    size: int = 250,
    callers: int = CALLERS,
    until: asyncio.Event | None = None,
    start: int = 0,
    account: Account | None = None,
) -> Account:
    """Has callers score different records, one batch after the other, until there were `records`
    of them, and `until` is set. Adds to `account`, which others may watch."""
    account = Account() if account is None else account
    starts = iter(range(start, 1 << 60, size))

    async def caller() -> None:
        while True:
            first = next(starts)
            if first - start >= records and (until is None or until.is_set()):
                return
            table = batch(first, size)
            began = time.monotonic()
            try:
                result = await call(table)
            except PolarRayError as error:
                account.lost += size
                account.why[f"{type(error).__name__}: {error!s:.200}"] += 1
                account.end()
                continue
            account.latencies.append(time.monotonic() - began)
            account.end()
            await asyncio.to_thread(oracle.check, table, result, account)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return account


def by(client: Client, timeout_s: float = 2 * GUARD_S) -> Call:
    """Calls of one client, with a deadline that no healthy pool misses on any machine."""

    async def call(table: pa.Table) -> pa.Table:
        return await client.score_table_async(table, timeout_s=timeout_s)

    return call


async def hit(
    name: str,
    what: signal.Signals,
    hits: list[int],
    enough: asyncio.Event,
    every: int,
    account: Account,
    chance: random.Random,
) -> None:
    """Sends a signal to a random replica each time that `every` more calls of `account` have ended,
    unless it is the last; `hits` gets their process ids, `enough` is set at the tenth. One that was
    stopped goes on when what it held was given to others, or Serve has ended it."""
    while True:
        await account.ended(every)
        ready = await asyncio.to_thread(running, name)
        if len(ready) < 2:
            continue
        victim = chance.choice(sorted(ready - set(hits[-1:])))
        before = await asyncio.to_thread(stats, name) if what == signal.SIGSTOP else {}
        os.kill(victim, what)
        hits.append(victim)
        if what == signal.SIGSTOP:
            await until(
                "others have the work of a stopped replica",
                lambda pid=victim, had=before["repeats"]: (
                    pid not in replica_pids(name) or stats(name)["repeats"] > had
                ),
            )
            let_go(name, victim)
        if len(hits) >= 10:
            enough.set()


def let_go(name: str, pid: int) -> None:
    """Lets a stopped replica go on, if it still exists."""
    if pid in replica_pids(name):
        os.kill(pid, signal.SIGCONT)
