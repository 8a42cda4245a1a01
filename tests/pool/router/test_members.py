"""News of who runs reaches whoever watches, whichever comes first."""

from __future__ import annotations

from typing import Any

from polar_ray.pool.router import members

ONE = ["r1"]


def test_watchers_hear_what_was_and_what_comes_of_their_pool_only() -> None:
    heard: list[Any] = []
    members.watch("here", heard.append)
    assert heard == []
    members.publish("here", ONE)
    members.publish("there", [])
    members.publish("here", [])
    assert heard == [ONE, []]
    late: list[Any] = []
    members.watch("here", late.append)
    members.watch("there", late.append)
    assert late == [[], []]
