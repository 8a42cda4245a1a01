"""News of who runs reaches whoever watches, whichever comes first."""

from __future__ import annotations

from typing import Any

from polar_ray.pool.router import running

ONE = ["r1"]


def test_watchers_hear_what_was_and_what_comes_of_their_pool_only() -> None:
    heard: list[Any] = []
    running.watch("here", heard.append)
    assert heard == []
    running.publish("here", ONE)
    running.publish("there", [])
    running.publish("here", [])
    assert heard == [ONE, []]
    late: list[Any] = []
    running.watch("here", late.append)
    running.watch("there", late.append)
    assert late == [[], []]
