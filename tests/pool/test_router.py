"""The router's decisions without a cluster: how foreign errors are told to callers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Generator
from typing import Any

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    OwnerDiedError,
    RayTaskError,
)
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from polar_ray.config import PoolConfig
from polar_ray.errors import (
    DeadlineExceeded,
    EngineError,
    Overloaded,
    PolarRayError,
    PoolError,
    RecordError,
    ReplicaLost,
)
from polar_ray.pool.router import Router, _translate


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), DeadlineExceeded),
        (asyncio.TimeoutError(), DeadlineExceeded),
        (GetTimeoutError(), DeadlineExceeded),
        (ActorDiedError(), ReplicaLost),
        (ActorUnavailableError("x", None), ReplicaLost),
        (OwnerDiedError("00" * 28, b"", ""), ReplicaLost),
        (DeploymentUnavailableError(DeploymentID("Replica", "app")), PoolError),
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


class Silent:
    """A deployment handle, and its responses, that never answer."""

    def __init__(self) -> None:
        self.cancelled = 0

    def options(self, **options: Any) -> Silent:
        return self

    @property
    def info(self) -> Silent:
        return self

    def remote(self) -> Silent:
        return self

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.sleep(3600).__await__()

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf, "5", 1e300])
def test_a_deadline_that_would_hang_is_refused(timeout_s: Any) -> None:
    router = Router(PoolConfig(), Silent())
    with pytest.raises(RecordError, match="timeout_s="):
        asyncio.run(router.score([], timeout_s))


def test_the_deadline_holds_for_every_part_of_a_call() -> None:
    # An empty batch asks the replicas only what they score with.
    with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
        asyncio.run(Router(PoolConfig(), Silent()).score([], 0.01))


class Failed(Silent):
    """A response that failed on its way to a replica: Serve's `cancel` raises that again."""

    def __await__(self) -> Generator[Any, None, None]:
        raise BackPressureError(1, 1)
        yield

    def cancel(self) -> None:
        raise BackPressureError(1, 1)


def test_a_failed_shard_cancels_the_others() -> None:
    class Two(Silent):
        @property
        def score(self) -> Two:
            return self

        def remote(self, *shard: Any) -> Silent:
            return responses.pop()

    silent = Silent()
    responses = [silent, Failed()]
    router = Router(PoolConfig(), Two())
    with pytest.raises(BackPressureError):
        asyncio.run(router._send([], [None, None]))
    assert silent.cancelled == 1
