"""The handle's way without a cluster: every error of Ray's becomes one of this project's."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pytest
from ray.exceptions import RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from sample_records import GROUPS

from polar_ray.client import Client
from polar_ray.client.handle import HandleTransport
from polar_ray.errors import Overloaded, PolarRayError, PoolError, ReplicaLost
from polar_ray.sizes import SMALL_BYTES


class Failing:
    """A handle's method whose calls fail at once, or when their result is asked for."""

    def __init__(self, error: Exception, *, at_once: bool) -> None:
        self.error, self.at_once = error, at_once

    def remote(self, *batch: Any, **options: Any) -> Failing:
        if self.at_once:
            raise self.error
        return self

    def result(self, timeout_s: float) -> Any:
        raise self.error

    def __await__(self) -> Any:
        raise self.error
        yield

    def cancel(self) -> None:
        raise self.error  # as Serve does for a call that failed on its way


class Method:
    """A handle's method that answers what it is sent, which it keeps."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def remote(self, batch: Any, **options: Any) -> Method:
        self.sent.append(batch)
        return self

    def result(self, timeout_s: float) -> Any:
        return self.sent[-1]

    def __await__(self) -> Any:
        return self.sent[-1]
        yield


def test_small_tables_travel_as_streams_and_others_as_they_are() -> None:
    transport = object.__new__(HandleTransport)
    transport._score, transport._score_stream = whole, stream = Method(), Method()
    small = pa.table({"a": ["x" * 100]}).replace_schema_metadata({"made by": "y"})
    large = pa.table({"a": ["x" * (SMALL_BYTES + 1)]})
    for batch in (small, large):
        assert transport.send(batch, 60.0, "train").equals(batch, check_metadata=True)
        again = asyncio.run(transport.send_async(batch, 60.0, "train"))
        assert again.equals(batch, check_metadata=True)
    assert [type(sent) for sent in stream.sent] == [bytes, bytes]
    assert whole.sent == [large, large]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DeploymentUnavailableError(DeploymentID("Router", "gone")), PoolError),
        (BackPressureError(1, 1), Overloaded),
        (RayServeException("lost"), ReplicaLost),
        (RuntimeError("upstream broke"), PoolError),
        (RayTaskError("score", "...", ValueError("no such row")), PoolError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_errors_of_ray_get_this_projects_names(
    error: Exception, kind: type[PolarRayError], at_once: bool
) -> None:
    transport = object.__new__(HandleTransport)
    transport._app_name = "gone"
    transport._score = transport._score_stream = Failing(error, at_once=at_once)
    client = Client(transport, timeout_s=0.2)
    with pytest.raises(kind) as caught:
        client.score(GROUPS)
    assert type(caught.value) is kind
    with pytest.raises(kind):
        asyncio.run(client.score_async(GROUPS))


class Interrupted(Exception):
    """Of a caller's own signal handler, say one that bounds a reward function's time."""


def test_what_the_caller_itself_raises_is_no_error_of_the_pool() -> None:
    transport = object.__new__(HandleTransport)
    transport._app_name = "here"
    transport._score = transport._score_stream = Failing(Interrupted("late"), at_once=False)
    with pytest.raises(Interrupted, match="late"):
        Client(transport, timeout_s=0.2).score(GROUPS)
