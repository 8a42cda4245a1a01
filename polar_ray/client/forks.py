"""Forks: what a child process must make anew of what its parent had.

A child begins with copies of its parent's connections, locks and half-done calls, and without its
threads. Used as they are, parent and child read each other's answers, or wait for ever. Whoever
owns such things says here how they are made anew.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """Something that a child process cannot go on with."""

    def after_fork(self) -> None:
        """Makes it anew; called in the child, before anything else runs there."""
        ...


_known: WeakSet[Forked] = WeakSet()


def remake_in_children(thing: Forked) -> None:
    """Has `thing` made anew in every child that forks from this process, while it is in use."""
    _known.add(thing)


def _in_child() -> None:
    for thing in list(_known):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(after_in_child=_in_child)
