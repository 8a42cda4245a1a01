"""The router's decisions without a cluster: how foreign errors are told to callers."""

from __future__ import annotations

import asyncio

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    OwnerDiedError,
    RayTaskError,
)
from ray.serve.exceptions import BackPressureError

from polar_ray.errors import (
    DeadlineExceeded,
    EngineError,
    Overloaded,
    PolarRayError,
    PoolError,
    RecordError,
    ReplicaLost,
)
from polar_ray.pool.router import _translate


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), DeadlineExceeded),
        (asyncio.TimeoutError(), DeadlineExceeded),
        (GetTimeoutError(), DeadlineExceeded),
        (ActorDiedError(), ReplicaLost),
        (ActorUnavailableError("x", None), ReplicaLost),
        (OwnerDiedError("00" * 28, b"", ""), ReplicaLost),
        (BackPressureError(1, 1), Overloaded),
        (RayTaskError("score", "trace", RecordError("bad")), RecordError),
        (RayTaskError("score", "trace", EngineError("bad")), EngineError),
        (RayTaskError("score", "trace", KeyError("bug")), PoolError),
        (KeyError("bug"), PoolError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_every_error_has_one_of_this_projects_names(
    error: Exception, kind: type[PolarRayError]
) -> None:
    translated = _translate(error, 2.0)
    assert type(translated) is kind
    assert str(translated)
