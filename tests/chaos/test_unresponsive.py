"""A replica of little use: it hardly gets on, and is neither dead nor silent. Nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from chaos.load import Account, Oracle, assert_exact, by, run_load
from chaos.observe import since, stats, until
from processes import replica_pids

from polar_ray.client import connect

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]

NAME = "unresponsive"
CALLS = 300
REPEATS = 10
"""So much of what the slow replica is late with has been given to others when the load ends."""

COMPUTES_S = 0.1
Figure = Callable[[str], None]


async def load_until(
    is_enough: Callable[[Account], bool], oracle: Oracle, start: int
) -> tuple[Account, float]:
    """The load of three callers until there was enough of it, and its records a second."""
    over = asyncio.Event()
    account = Account()
    call = by(connect(app_name=NAME))
    load = asyncio.create_task(
        run_load(call, oracle, records=0, callers=3, until=over, start=start, account=account)
    )
    began = time.monotonic()
    await until("there was enough load", lambda: is_enough(account))
    speed = account.rows / (time.monotonic() - began)
    over.set()
    await load
    return account, speed


def cpu_s(pid: int) -> float:
    """What a process has computed so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def slowed(pid: int, *, runs_s: float, stands_s: float) -> Iterator[None]:
    """A process gets on for a part of the time only. Where others take the cores meanwhile, it
    runs until it has computed something."""
    over = Event()

    def beat() -> None:
        with suppress(ProcessLookupError, FileNotFoundError):
            while not over.is_set():
                os.kill(pid, signal.SIGSTOP)
                over.wait(stands_s)
                os.kill(pid, signal.SIGCONT)
                before, began = cpu_s(pid), time.monotonic()
                over.wait(runs_s)
                while cpu_s(pid) - before < COMPUTES_S and time.monotonic() - began < stands_s:
                    over.wait(0.05)

    beating = Thread(target=beat)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()


def test_a_slow_replica_costs_its_share_and_no_record(
    url: str, tiny_dir: Path, figure: Figure
) -> None:
    """One of three gets on for a tenth of the time, in beats that are too short to count as
    silence. There are few callers, so that the others have time to repeat what it is late with."""
    oracle = Oracle(tiny_dir)
    alone, usual = asyncio.run(load_until(lambda account: account.calls >= CALLS, oracle, 0))
    before = stats(NAME)
    victim = replica_pids(NAME)[0]

    def is_enough(account: Account) -> bool:
        return account.calls >= CALLS and since(NAME, before)["repeats"] >= REPEATS

    with slowed(victim, runs_s=0.4, stands_s=4.0):
        beside, slower = asyncio.run(load_until(is_enough, oracle, 1 << 30))
    beside.kills = 1
    grown = since(NAME, before)
    healthy = np.percentile(alone.latencies, 99)
    figure(
        f"{beside.summary()}; p99 {healthy:.2f} s with all well; {grown['repeats']:.0f} of "
        f"{grown['parcels']:.0f} parcels repeated; throughput {slower / usual:.0%} of that with "
        "all well"
    )
    assert_exact(beside, 1)
    assert victim in replica_pids(NAME), "it was to be slow, not dead"
    assert grown["deaths"] == 0
