"""A replica works for everybody, or for one trial alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from simulation.loop import VirtualLoop

from polar_ray.pool.replica.reservation import NEXT_S, RESERVED_S, NotReserved, Reservation


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """In virtual time."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(main())
        assert not asyncio.all_tasks(loop)
    finally:
        loop.close()


async def nothing() -> None:
    """No work goes on that its caller has left."""


class Worker:
    """Shards that stay for as long as the test wants."""

    def __init__(self) -> None:
        self.reservation = Reservation()
        self.began: list[str] = []

    async def work(self, name: str, *, trial_of: str | None = None, for_s: float = 1.0) -> None:
        async with self.reservation.work(trial_of=trial_of):
            self.began.append(name)
            await asyncio.sleep(for_s)


def test_a_reservation_waits_for_what_is_at_work_and_keeps_the_rest_out() -> None:
    async def main() -> None:
        replica = Worker()
        before = asyncio.create_task(replica.work("before"))
        await asyncio.sleep(0)
        reserving = asyncio.create_task(replica.reservation.reserve("router", nothing))
        await asyncio.sleep(0)
        after = asyncio.create_task(replica.work("after"))
        await asyncio.sleep(0.5)
        assert not reserving.done()
        await reserving
        assert before.done()
        await replica.work("trial", trial_of="router")
        await after
        assert replica.began == ["before", "trial", "after"]

    run(main)


def test_one_trial_after_the_other_needs_no_new_emptying() -> None:
    async def main() -> None:
        replica = Worker()
        await replica.reservation.reserve("router", nothing)
        waiting = asyncio.create_task(replica.work("other"))
        for number in range(3):
            await replica.work(f"trial {number}", trial_of="router")
            await replica.reservation.reserve("router", nothing)
        await replica.work("trial 3", trial_of="router")
        await asyncio.sleep(NEXT_S + 0.01)
        await waiting
        assert replica.began == ["trial 0", "trial 1", "trial 2", "trial 3", "other"]

    run(main)


def test_a_reservation_without_a_trial_ends() -> None:
    async def main() -> None:
        replica = Worker()
        await replica.reservation.reserve("router", nothing)
        began = asyncio.get_running_loop().time()
        await replica.work("other", for_s=0)
        assert asyncio.get_running_loop().time() - began == pytest.approx(RESERVED_S)

    run(main)


def test_two_routers_take_turns_and_a_cancelled_one_lets_go() -> None:
    async def main() -> None:
        replica = Worker()
        before = asyncio.create_task(replica.work("before", for_s=10))
        await asyncio.sleep(0)
        gone = asyncio.create_task(replica.reservation.reserve("router", nothing))
        await asyncio.sleep(0)
        other = asyncio.create_task(replica.reservation.reserve("other", nothing))
        await asyncio.sleep(1)
        gone.cancel()
        await before
        await other
        await replica.work("trial", trial_of="other")
        assert replica.began == ["before", "trial"]
        await replica.work("after")

    run(main)


def test_a_router_that_comes_again_has_its_reservation_at_once() -> None:
    """The caller of its suspect may have left in between."""

    async def main() -> None:
        replica = Worker()
        await replica.reservation.reserve("router", nothing)
        other = asyncio.create_task(replica.reservation.reserve("other", nothing))
        await asyncio.sleep(0)
        await replica.reservation.reserve("router", nothing)
        assert not other.done()
        await other

    run(main)


def test_a_trial_that_comes_too_late_is_refused() -> None:
    async def main() -> None:
        replica = Worker()
        await replica.reservation.reserve("router", nothing)
        await asyncio.sleep(RESERVED_S + 1)
        await replica.reservation.reserve("other", nothing)
        with pytest.raises(NotReserved):
            await replica.work("late", trial_of="router")
        await replica.work("trial", trial_of="other")
        assert replica.began == ["trial"]
        await asyncio.sleep(NEXT_S + 1)

    run(main)
