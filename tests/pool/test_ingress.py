"""The way to routers without a cluster: who counts as unresponsive, and what becomes of calls."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

from polar_ray.pool import ingress
from polar_ray.pool.ingress import LOOK_S, SILENT_LOOKS, Heartbeat, WatchedResult


class Process:
    """Gets questions, and answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Future[int]] = []
        self.heartbeat = Heartbeat(self._ask)
        self.now = 100.0

    def _ask(self) -> Future[int]:
        self.asked.append(Future())
        return self.asked[-1]

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.heartbeat.look(self.now)
            self.now += LOOK_S


def test_silence_is_counted_in_looks_and_ends_with_an_answer() -> None:
    process = Process()
    process.look(SILENT_LOOKS)
    assert (process.heartbeat.missed, process.heartbeat.silent) == (SILENT_LOOKS - 1, False)
    process.look()
    assert process.heartbeat.silent
    assert len(process.asked) == 1, "one question at a time"
    process.asked[0].set_result(7)
    process.look()
    assert (process.heartbeat.missed, len(process.asked)) == (0, 2)


def test_a_caller_that_was_stopped_itself_does_not_count_the_time() -> None:
    process = Process()
    process.look()
    process.now += 3600
    process.look()
    assert not process.heartbeat.silent
    process.asked[0].set_result(0)
    process.look()
    assert process.heartbeat.missed == 0


def test_many_callers_that_look_at_once_count_once() -> None:
    process = Process()
    process.look()
    for _ in range(5 * SILENT_LOOKS):
        process.heartbeat.look(process.now)
    assert process.heartbeat.missed == 1


def test_an_error_is_an_answer() -> None:
    process = Process()
    process.look()
    process.asked[0].set_exception(RuntimeError("dead"))
    process.look()
    assert process.heartbeat.missed == 0


def result_that(check: Any) -> WatchedResult:
    result = object.__new__(WatchedResult)
    result.check = check
    return result


def test_a_call_waits_as_long_as_its_router_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "LOOK_S", 0.001)
    looks: list[int] = []

    async def main() -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def check() -> None:
            looks.append(1)
            if len(looks) == 20:
                answer.set_result("scores")

        assert await result_that(check)._unless_silent(answer) == "scores"

    asyncio.run(main())
    assert len(looks) == 20


def test_a_call_whose_router_is_unresponsive_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "LOOK_S", 0.001)

    def check() -> None:
        raise ActorUnavailableError("no heartbeat", None)

    async def main() -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        with pytest.raises(ActorUnavailableError, match="no heartbeat"):
            await result_that(check)._unless_silent(answer)
        assert answer.cancelled()

    asyncio.run(main())


def test_the_end_of_a_stream_passes() -> None:
    async def end() -> None:
        raise StopAsyncIteration

    async def main() -> None:
        with pytest.raises(StopAsyncIteration):
            await result_that(lambda: None)._unless_silent(end())

    asyncio.run(main())
