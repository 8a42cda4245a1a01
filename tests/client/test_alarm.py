"""The alarm: it rings at the deadlines of those that are still there, and never later."""

from __future__ import annotations

import threading
import time

from polar_ray.client.alarm import Alarm

LONG_S = 30.0


def test_who_is_late_is_rung_for_until_the_block_ends() -> None:
    alarm, rung = Alarm(), threading.Semaphore(0)
    with alarm.at(time.monotonic() + 0.01, rung.release):
        assert rung.acquire(timeout=LONG_S)
        assert rung.acquire(timeout=LONG_S)
    while rung.acquire(blocking=False):
        pass
    assert not rung.acquire(timeout=0.3)


def test_a_deadline_that_is_nearer_than_those_before_is_seen() -> None:
    alarm, rung = Alarm(), threading.Event()
    with alarm.at(time.monotonic() + 3600, rung.clear):
        time.sleep(0.05)  # its thread sleeps
        with alarm.at(time.monotonic() + 0.01, rung.set):
            assert rung.wait(LONG_S)


def test_the_thread_ends_when_none_is_out_and_begins_again() -> None:
    alarm, rung = Alarm(), threading.Event()
    with alarm.at(time.monotonic() + 0.01, lambda: None):
        pass
    deadline = time.monotonic() + LONG_S
    while alarm._watched and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alarm._watched
    with alarm.at(time.monotonic() + 0.01, rung.set):
        assert rung.wait(LONG_S)


def test_a_call_may_leave_its_block_after_a_fork() -> None:
    alarm, rung = Alarm(), threading.Event()
    with alarm.at(time.monotonic() + 3600, rung.set):
        while not alarm._wakes_at:  # a child would not have its thread
            time.sleep(0.01)
        alarm.after_fork()
    with alarm.at(time.monotonic(), rung.set):
        assert rung.wait(LONG_S)
