"""What the router holds at once: bounded, fair to priorities, given back whatever happens."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from polar_ray.config import AdmissionConfig
from polar_ray.errors import Overloaded, TooLarge
from polar_ray.pool.router.admission import LATEST_S, SOONEST_S, Admission

TRAIN, EVAL, OFFLINE = range(3)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    return Admission(AdmissionConfig(max_calls=10, max_bytes=1000), clock=clock)


def enter(stack: ExitStack, admission: Admission, size: int, rank: int = TRAIN) -> None:
    stack.enter_context(admission.call(rank))(size)


def test_calls_are_counted_and_given_back(admission: Admission) -> None:
    with ExitStack() as stack:
        for _ in range(10):
            enter(stack, admission, 1)
        with pytest.raises(Overloaded, match="10 calls are waiting"):
            enter(stack, admission, 1)
    assert (admission.calls, admission.size_bytes, admission.refused) == (0, 0, 1)
    with ExitStack() as stack:
        enter(stack, admission, 1)


def test_an_error_gives_back_what_the_call_held(admission: Admission) -> None:
    def fail() -> None:
        with ExitStack() as stack:
            enter(stack, admission, 100)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (admission.calls, admission.size_bytes) == (0, 0)


def test_there_is_always_room_for_those_above(admission: Admission) -> None:
    with ExitStack() as stack:
        enter(stack, admission, 500, OFFLINE)
        with pytest.raises(Overloaded, match="500 bytes are waiting before this offline call"):
            enter(stack, admission, 1, OFFLINE)
        enter(stack, admission, 300, EVAL)
        with pytest.raises(Overloaded, match="eval"):
            enter(stack, admission, 1, EVAL)
        enter(stack, admission, 200, TRAIN)
        with pytest.raises(Overloaded, match="train"):
            enter(stack, admission, 1, TRAIN)


def test_a_large_offline_call_has_the_pool_when_it_is_empty(admission: Admission) -> None:
    with ExitStack() as stack:
        enter(stack, admission, 900, OFFLINE)
    with ExitStack() as stack, pytest.raises(TooLarge, match="1001 bytes is over"):
        enter(stack, admission, 1001)


def test_what_comes_in_pieces_is_counted_as_it_comes(admission: Admission) -> None:
    with ExitStack() as stack:
        enter(stack, admission, 400)
        with ExitStack() as pieces:
            add = pieces.enter_context(admission.call(TRAIN))
            for _ in range(6):
                add(100)
            with pytest.raises(Overloaded):
                add(100)
        assert admission.size_bytes == 400


def test_who_is_refused_is_told_when_there_will_be_room(clock: Clock) -> None:
    admission = Admission(AdmissionConfig(max_calls=10), clock=clock)
    for _ in range(300):  # 10 calls a second
        clock.now += 0.1
        with ExitStack() as stack:
            enter(stack, admission, 1)
    waits: list[float] = []
    with ExitStack() as stack:
        for _ in range(10):
            enter(stack, admission, 1)
        for _ in range(100):
            with pytest.raises(Overloaded) as caught:
                enter(stack, admission, 1)
            waits.append(caught.value.retry_after_s)
        assert waits[0] == pytest.approx(1.1, rel=0.2), "ten are before it"
        assert waits[-1] == pytest.approx(11, rel=0.2), "and a hundred who were refused"
        clock.now += 1000
        with pytest.raises(Overloaded) as caught:
            enter(stack, admission, 1)
    assert SOONEST_S <= caught.value.retry_after_s <= LATEST_S, "nothing has left for long"
