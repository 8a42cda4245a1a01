"""Forks and signals: a child gets its own answers, and who is interrupted gets the next ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polar_ray.client import handle
from polar_ray.client.handle import HandleTransport
from polar_ray.errors import PoolError

TESTS = Path(__file__).parents[1]


def run(*words: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    env = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True, env=env)


def test_parent_and_children_get_their_own_answers() -> None:
    """In processes of their own: this one has threads, with which nobody should fork."""
    with run(str(TESTS / "fake_pool.py")) as pool:
        try:
            assert pool.stdout is not None
            address = pool.stdout.readline().strip()
            with run(str(TESTS / "client" / "forking.py"), address) as forking:
                printed, _ = forking.communicate(timeout=200)
        finally:
            pool.kill()
    assert printed.split() == ["0"] * 5, "wrong answers of four children and of their parent"


def test_calls_that_are_interrupted_anywhere_hold_up_no_others() -> None:
    """In a process of its own, which may stand for ever."""
    with run(str(TESTS / "fake_pool.py")) as pool:
        try:
            assert pool.stdout is not None
            address = pool.stdout.readline().strip()
            with run(str(TESTS / "client" / "interrupting.py"), address, "1000") as interrupting:
                try:
                    printed, _ = interrupting.communicate(timeout=200)
                finally:
                    interrupting.kill()
        finally:
            pool.kill()
    assert printed.split() == ["1000", "2"]


def test_a_child_of_a_process_with_ray_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of a handle would wait for threads that did not come along."""
    monkeypatch.setattr(handle.ray, "is_initialized", lambda: True)
    here = handle._RayHere()
    here.check()
    here.after_fork()
    monkeypatch.setattr(handle, "_ray_here", here)
    with pytest.raises(PoolError, match="forked from one that uses Ray"):
        HandleTransport("polar")
    transport = object.__new__(HandleTransport)
    transport._app_name = "polar"
    with pytest.raises(PoolError, match="forked"):
        transport.send(None, 1.0, "train")
    assert "forked" in transport.why_waiting()
