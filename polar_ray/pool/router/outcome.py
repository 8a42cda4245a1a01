"""Outcomes: what can become of a parcel that is sent to a replica, besides an answer.

`replicas`, which knows Ray, raises these; `dispatcher` and `recovery`, which do not, act on them.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

import pyarrow as pa

from polar_ray.pool.router.work import Attempt


class Died(Exception):
    """The replica's process ended while it held the parcel."""


class Unreachable(Exception):
    """The replica may or may not have done the work; nobody knows."""


class Refused(Exception):
    """The replica is not there any more and never took the parcel."""


class Send(Protocol):
    """One parcel's way to a replica and back; raises `Died`, `Unreachable`, `Refused`."""

    def __call__(self, attempt: Attempt) -> Awaitable[pa.Table]: ...


class Reserve(Protocol):
    """Returns once a replica is at nothing else and begins nothing else for a few seconds; raises
    as `Send` does."""

    def __call__(self, replica: str) -> Awaitable[None]: ...
