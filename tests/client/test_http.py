"""The HTTP client against the real app, and against servers that misbehave."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from examples import GROUPS

from polar_ray.client import Client
from polar_ray.client.http import HttpTransport
from polar_ray.errors import (
    DeadlineExceeded,
    Overloaded,
    PolarRayError,
    PoolError,
    RecordError,
    TooLarge,
)


def client(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client(HttpTransport("http://pool", transport=httpx.MockTransport(answer)))


def error(kind: str, status: int, **headers: str) -> httpx.Response:
    body = {"error": {"type": kind, "message": "because"}}
    return httpx.Response(status, json=body, headers=headers)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (error("RecordError", 422), RecordError, "because"),
        (error("TooLarge", 413), TooLarge, "because"),
        (error("Overloaded", 429, **{"retry-after": "2.5"}), Overloaded, "because"),
        (error("DeadlineExceeded", 504), DeadlineExceeded, "because"),
        (error("NoSuchError", 500), PoolError, "answered 500"),
        (httpx.Response(502, text="<html>bad gateway</html>"), PoolError, "bad gateway"),
        (httpx.Response(404, json={"detail": "Not Found"}), PoolError, "answered 404"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:30]),
)
def test_errors_arrive_as_the_same_class(
    answer: httpx.Response, kind: type[PolarRayError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        client(lambda request: answer).score(GROUPS)
    assert type(caught.value) is kind
    if isinstance(caught.value, Overloaded):
        assert caught.value.retry_after_s == 2.5


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (httpx.ConnectError("refused"), PoolError),
        (httpx.ReadTimeout("late"), DeadlineExceeded),
        (httpx.RemoteProtocolError("cut"), PoolError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_transport_errors_are_named(raised: Exception, kind: type[PolarRayError]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise raised

    with pytest.raises(kind, match="http://pool"):
        client(answer).score(GROUPS)


def test_a_deadline_goes_to_the_server_and_bounds_the_wait() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return error("DeadlineExceeded", 504)

    with pytest.raises(DeadlineExceeded):
        client(answer).score(GROUPS, timeout_s=3)
    assert seen[0].url.params["timeout_s"] == "3"
    assert 3 < seen[0].extensions["timeout"]["read"] < 4
