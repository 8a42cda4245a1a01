"""What is sent again, when, and until when."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from threading import current_thread, main_thread
from typing import Any

import pyarrow as pa
import pytest
from sample_records import GROUPS

from polar_ray.call_options import Priority
from polar_ray.client import Client, client
from polar_ray.client.backoff import LOST_TRIES, Backoff
from polar_ray.errors import (
    AuthError,
    DeadlineExceeded,
    Overloaded,
    PolarRayError,
    PoolError,
    RecordError,
    ReplicaLost,
    Unavailable,
)
from polar_ray.scorer import Scorer


class Time:
    """A clock that moves by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def waits(error: PolarRayError, timeout_s: float = 60, chance: float = 0.5) -> list[float]:
    """The waits of a call that always ends in the same error."""
    time = Time()
    backoff = Backoff(timeout_s, clock=time, chance=lambda: chance)
    with suppress(type(error)):
        while True:
            time.sleep(backoff.wait_s(error))
    return time.naps


def test_a_try_that_had_no_time_left_does_not_hide_what_was_before() -> None:
    backoff = Backoff(40)
    backoff.wait_s(Unavailable("cannot reach http://pool"))
    with pytest.raises(DeadlineExceeded, match=r"within 40 s.*0\.003 s.*cannot reach http://pool"):
        backoff.wait_s(DeadlineExceeded("no answer within 0.003 s"))
    with pytest.raises(DeadlineExceeded, match=r"^only$"):
        Backoff(40).wait_s(DeadlineExceeded("only"))


def test_a_full_pool_is_asked_again_until_the_deadline() -> None:
    assert waits(Overloaded("full", 10.0)) == [10.0] * 5
    assert waits(Overloaded("full", 10.0), chance=0.0) == [5.0] * 11
    assert waits(Overloaded("full", 61.0)) == []


def test_a_lost_call_is_sent_a_few_times_with_growing_waits() -> None:
    assert waits(ReplicaLost("gone")) == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert len(waits(ReplicaLost("gone"))) == LOST_TRIES


def test_a_pool_that_is_away_is_asked_until_the_deadline_and_not_too_seldom() -> None:
    naps = waits(Unavailable("away"), timeout_s=60, chance=1.0)
    assert naps[:5] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.0])
    assert set(naps[4:]) == {3.0}
    assert 57 <= sum(naps) < 60
    calm = Backoff(600, clock=Time(), chance=lambda: 1.0)
    for _ in range(10):
        calm.wait_s(Unavailable("away"))
    assert calm.wait_s(ReplicaLost("gone")) == 0.2, "that it was away is not held against a call"


@pytest.mark.parametrize(
    "error",
    [RecordError("bad"), PoolError("bug"), DeadlineExceeded("late"), AuthError("who")],
    ids=lambda error: type(error).__name__,
)
def test_nothing_else_is_repeated(error: PolarRayError) -> None:
    assert waits(error) == []


class Full:
    """A pool that is full a few times."""

    def __init__(self, scorer: Scorer, times: int) -> None:
        self.scorer, self.times = scorer, times
        self.timeouts: list[float] = []
        self.priorities: list[str] = []

    def why_waiting(self) -> str:
        return "it is a fake"

    def carries(self, records: Any) -> bool:
        return False

    def send(self, batch: Any, timeout_s: float, priority: Priority) -> pa.Table:
        self.timeouts.append(timeout_s)
        self.priorities.append(priority)
        if len(self.timeouts) <= self.times:
            raise Overloaded("full", 1.0)
        return self.scorer.score(batch)

    async def send_async(self, batch: Any, timeout_s: float, priority: Priority) -> pa.Table:
        return self.send(batch, timeout_s, priority)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("in_loop", [False, True])
def test_a_client_waits_and_gets_its_scores(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch, in_loop: bool
) -> None:
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    sleep = client.time.sleep

    def block(seconds: float) -> None:
        # Ray's own threads may sleep in this process, too.
        naps.append(seconds) if current_thread() is main_thread() else sleep(seconds)

    monkeypatch.setattr(client.time, "sleep", block)
    monkeypatch.setattr(client.asyncio, "sleep", nap)
    full = Full(scorer, times=3)
    one = Client(full, timeout_s=60, priority="offline")
    found = asyncio.run(one.score_async(GROUPS)) if in_loop else one.score(GROUPS)
    assert len(found) == len(GROUPS)
    assert len(naps) == 3
    assert all(0.5 <= seconds <= 1.5 for seconds in naps)
    assert full.priorities == ["offline"] * 4
    with pytest.raises(Overloaded):
        Client(Full(scorer, times=3), timeout_s=0.4).score(GROUPS)


def test_a_priority_that_does_not_exist_is_refused(scorer: Scorer) -> None:
    with pytest.raises(RecordError, match="train, eval, offline"):
        Client(Full(scorer, 0), priority="vip")  # type: ignore[arg-type]
