"""Callers who change their minds: calls of up to 4000 rows are cancelled, time out or lose their
client by the thousand, at any moment. No slot of a replica is lost by it, and honest callers do not
notice."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
from chaos.load import Account, Oracle, batch, by, run_load
from chaos.observe import GUARD_S, idle

from polar_ray.client import Client, connect
from polar_ray.errors import DeadlineExceeded, PolarRayError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(3600)]

NAME = "cancelled"
CANCELLED = int(os.environ.get("CHAOS_CANCELLED", "2000"))
MINUTES = float(os.environ.get("CHAOS_CANCEL_MINUTES", "10"))
A_MINUTE = 1000
AT_ONCE = 24
SIZES = (1, 8, 250, 1000, 4000)
HONEST_S = 2 * GUARD_S
PROBES = 10
Figure = Callable[[str], None]


@dataclass
class Fickle:
    """Callers who give up, and what became of their calls."""

    url: str
    wanted: int
    every_s: float = 0.0
    """Calls begin at least so far apart, all together."""

    chance: random.Random = field(default_factory=lambda: random.Random(4))
    ended: Counter[str] = field(default_factory=Counter)
    usual_s: dict[int, float] = field(default_factory=dict)
    """How long a call of so many rows takes that is left alone: when to give up is drawn from it,
    so that it falls anywhere between the call's way to the pool and its answer."""

    @property
    def given_up(self) -> int:
        """Calls that were ended before their answer."""
        return self.ended.total() - self.ended["scored"]

    async def run(self) -> None:
        """Until so many calls were given up."""
        from ray import serve

        client, handle = connect(app_name=NAME), serve.get_app_handle(NAME)
        tables = {size: batch(1 << 50, size) for size in SIZES}
        with connect(address=self.url) as web:
            ways = {
                "task of the client": lambda table, s: self._task(client, table, s),
                "response of the handle": lambda table, s: self._response(handle, table, s),
                "deadline": lambda table, s: self._deadline(client, table, s),
                "HTTP client gone": lambda table, s: self._task(web, table, s),
                "HTTP deadline": lambda table, s: self._deadline(web, table, s),
            }
            for size, table in tables.items():
                began = time.monotonic()
                await client.score_table_async(table, timeout_s=HONEST_S)
                self.usual_s[size] = time.monotonic() - began
            await asyncio.gather(*(self._caller(ways, tables) for _ in range(AT_ONCE)))

    async def _caller(
        self,
        ways: dict[str, Callable[[pa.Table, float], Awaitable[bool]]],
        tables: dict[int, pa.Table],
    ) -> None:
        while self.given_up < self.wanted:
            way, size = self.chance.choice(list(ways)), self.chance.choice(SIZES)
            # Small calls among large ones wait for these.
            most = max(self.usual_s[size], self.chance.choice(list(self.usual_s.values())))
            began = time.monotonic()
            scored = await ways[way](tables[size], self.chance.random() * most)
            self.ended["scored" if scored else way] += 1
            await asyncio.sleep(max(0.0, AT_ONCE * self.every_s - (time.monotonic() - began)))

    async def _task(self, client: Client, table: pa.Table, after_s: float) -> bool:
        task = asyncio.create_task(client.score_table_async(table, timeout_s=HONEST_S))
        await asyncio.wait([task], timeout=after_s)
        task.cancel()
        with suppress(asyncio.CancelledError):
            return _is_whole(await task, table)
        return False

    async def _response(self, handle: object, table: pa.Table, after_s: float) -> bool:
        from ray.exceptions import TaskCancelledError
        from ray.serve.exceptions import RequestCancelledError

        response = handle.score.remote(table, timeout_s=HONEST_S)
        await asyncio.sleep(after_s)
        response.cancel()
        with suppress(asyncio.CancelledError, TaskCancelledError, RequestCancelledError):
            return _is_whole(await response, table)
        return False

    async def _deadline(self, client: Client, table: pa.Table, after_s: float) -> bool:
        """A few milliseconds, or anything up to what such a call takes."""
        timeout_s = self.chance.choice((self.chance.uniform(0.001, 0.01), max(0.001, after_s)))
        with suppress(DeadlineExceeded):
            return _is_whole(await client.score_table_async(table, timeout_s=timeout_s), table)
        return False


def _is_whole(result: pa.Table, table: pa.Table) -> bool:
    """An answer that was faster than its caller's change of mind is a good one."""
    assert result["id"].equals(table["id"])
    assert result["score"].null_count == 0
    return True


async def probes(client: Client) -> int:
    """How many of some calls are answered, half of them large enough for all replicas."""

    async def answered(number: int) -> bool:
        table = batch(number, (10, SIZES[-1])[number % 2])
        with suppress(PolarRayError):
            return _is_whole(await client.score_table_async(table, timeout_s=GUARD_S), table)
        return False

    return sum(await asyncio.gather(*(answered(number) for number in range(PROBES))))


async def beside_honest_calls(fickle: Fickle, oracle: Oracle) -> tuple[Account, int]:
    """Honest callers while others give up; what the honest got, and how many probes afterwards are
    answered."""
    over = asyncio.Event()
    client = connect(app_name=NAME)
    honest = asyncio.create_task(
        run_load(by(client, timeout_s=HONEST_S), oracle, records=0, callers=4, until=over)
    )
    try:
        await fickle.run()
    finally:
        over.set()
    account = await honest
    return account, await probes(client)


def check(fickle: Fickle, oracle: Oracle, figure: Figure) -> None:
    """Runs it all, and asserts that nothing is left of the calls that were given up."""
    account, answered = asyncio.run(beside_honest_calls(fickle, oracle))
    left = asyncio.run(idle(NAME))
    late = sum(n for why, n in account.why.items() if why.startswith("DeadlineExceeded"))
    figure(
        f"{fickle.given_up} calls given up {dict(fickle.ended)}; {answered} of {PROBES} probes "
        f"answered; held afterwards: {left}; honest: {late} late, {account.summary()}"
    )
    assert fickle.given_up >= fickle.wanted
    assert answered == PROBES
    assert left == {}
    assert late == 0
    assert account.calls > 0
    assert (account.lost, account.duplicated, account.wrong, account.errors) == (0, 0, 0, 0)


@pytest.mark.chaos
def test_cancelled_calls_leave_nothing_behind(url: str, tiny_dir: Path, figure: Figure) -> None:
    check(Fickle(url, wanted=CANCELLED), Oracle(tiny_dir), figure)


@pytest.mark.slow
def test_a_thousand_cancelled_calls_a_minute(url: str, tiny_dir: Path, figure: Figure) -> None:
    """As many as in so many minutes at that rate, however long it takes on this machine."""
    fickle = Fickle(url, wanted=round(MINUTES * A_MINUTE), every_s=60 / A_MINUTE)
    check(fickle, Oracle(tiny_dir), figure)
