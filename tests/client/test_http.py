"""The HTTP client against the real app, and against servers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pyarrow as pa
import pytest
from fake_pool import FakePool, score_of
from sample_records import GROUPS

from polar_ray.client import Client, connect
from polar_ray.client import http as module
from polar_ray.client.http import HttpTransport
from polar_ray.errors import (
    AuthError,
    ConfigError,
    DeadlineExceeded,
    Overloaded,
    PolarRayError,
    PoolError,
    RecordError,
    ReplicaLost,
    TooLarge,
    Unavailable,
)
from polar_ray.records import empty_scores, to_batch
from polar_ray.stream import CONTENT_DIGEST, digest, encode_arrow, read_arrow


def client(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client(HttpTransport("http://pool", transport=httpx.MockTransport(answer)))


def error(kind: str, status: int, **headers: str) -> httpx.Response:
    body = {"error": {"type": kind, "message": "because"}}
    return httpx.Response(status, json=body, headers=headers)


DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


def arrow(table: pa.Table, said: str | None = None) -> httpx.Response:
    body = encode_arrow(table)
    headers = {CONTENT_DIGEST: said or digest(body)}
    return httpx.Response(200, content=body, headers=headers)


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
        (error("ScoreError", 422), PoolError, "answered 422"),
        (error("Overloaded", 429, **{"retry-after": DATE}), Overloaded, "because"),
        (httpx.Response(200, text="<html>hello</html>"), PoolError, "is it a polar_ray pool"),
        (httpx.Response(200, content=b""), PoolError, "is it a polar_ray pool"),
        (arrow(pa.table({"a": [1]})), PoolError, "result columns are"),
        (arrow(pa.table({"a": [1]}), digest(b"else")), PoolError, "not what its content-digest"),
        (arrow(empty_scores()), PoolError, "0 result rows for 12 records"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:30]),
)
def test_errors_arrive_as_the_same_class(
    answer: httpx.Response, kind: type[PolarRayError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        client(lambda request: answer).score(GROUPS, timeout_s=0.9)
    assert type(caught.value) is kind
    if isinstance(caught.value, Overloaded):
        assert caught.value.retry_after_s == (1 if "GMT" in answer.headers["retry-after"] else 2.5)


def reversed_rows(table: pa.Table) -> pa.Table:
    return table.take(list(range(table.num_rows))[::-1])


@pytest.mark.parametrize("wait", ["blocking", "awaiting"])
@pytest.mark.parametrize(
    "wrong",
    [
        reversed_rows,
        lambda table: table.set_column(0, "id", pa.array([f"x{i}" for i in range(len(table))])),
        lambda table: table.drop_columns(["id"]),
    ],
    ids=["in another order", "of another call", "of nobody"],
)
def test_an_answer_with_rows_of_others_is_asked_for_again(
    wrong: Callable[[pa.Table], pa.Table], wait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polar_ray.client.backoff.FIRST_S", 0.0)
    pool = FakePool()
    bad = 2

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal bad
        bad -= 1
        table = pool.answer(read_arrow(request.content))
        return arrow(wrong(table) if bad >= 0 else table)

    rows = [
        {
            "prompt": "p",
            "reference": "r",
            "output": f"o{i}",
            "id": i if wait == "blocking" else f"{i}",
        }
        for i in range(9)
    ]
    own = client(answer)
    for _ in range(2):
        found = own.score(rows) if wait == "blocking" else asyncio.run(own.score_async(rows))
        assert found == [score_of("p", "r", row["output"]) for row in rows]
    bad = 99
    with pytest.raises(ReplicaLost, match="http://pool answered with rows of other ids"):
        own.score(rows)


def test_rows_without_ids_are_answered_by_position_and_ids_may_be_of_another_type() -> None:
    pool = FakePool()

    def answer(request: httpx.Request) -> httpx.Response:
        table = pool.answer(read_arrow(request.content))
        if "id" in table.column_names:
            table = table.set_column(0, "id", table["id"].cast(pa.large_string()))
        return arrow(table)

    plain = [{"prompt": "p", "reference": "r", "output": f"o{i}"} for i in range(3)]
    named = [{**row, "id": None if i == 1 else f"{i}"} for i, row in enumerate(plain)]
    for rows in (plain, named):
        found = client(answer).score(rows)
        assert found == [score_of("p", "r", row["output"]) for row in plain]


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
    assert float(seen[0].url.params["timeout_s"]) == 3
    assert 3 < seen[0].extensions["timeout"]["read"] < 4


class Drip(httpx.AsyncByteStream):
    """A body whose every byte is in time, and whose end never comes."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield b"x"


def test_a_server_that_drips_does_not_outlast_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.0)
    for timeout_s in (0.01, 0.001):
        drips = client(lambda request: httpx.Response(200, stream=Drip()))
        with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
            drips.score(GROUPS, timeout_s=timeout_s)


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http://[::1",
        "http://host:port",
        "pool:8000",
        "ftp://pool",
        "http://pool?x=1",
        "",
        5,
    ],
)
def test_an_address_that_cannot_be_one_is_refused_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match="address="):
        connect(address=address)


def test_a_closed_client_says_so() -> None:
    one = client(lambda request: error("PoolError", 503))
    one.close()
    with pytest.raises(PoolError, match="closed"):
        one.score(GROUPS)


def test_a_proxy_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "elsewhere")
    one = connect(address="http://127.0.0.1:8000")
    with pytest.raises(PoolError, match=r"the proxy http:.* which the environment names"):
        one.score(GROUPS)
    with pytest.raises(PoolError, match="proxy"):
        asyncio.run(one.score_async(GROUPS))
    monkeypatch.setenv("ALL_PROXY", "nonsense://x")
    with pytest.raises(ConfigError, match="proxy"):
        connect(address="http://127.0.0.1:8000")


def test_a_password_in_the_address_is_sent_and_not_shown() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(502, text="bad gateway")

    transport = HttpTransport("http://me:secret@pool/two/", transport=httpx.MockTransport(answer))
    with pytest.raises(PoolError, match="http://pool/two answered 502") as caught:
        Client(transport).score(GROUPS)
    assert "secret" not in str(caught.value)
    assert seen[0].url.path == "/two/score"
    assert seen[0].headers["authorization"].startswith("Basic ")


def test_a_token_is_sent_and_not_shown() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return error("AuthError", 401)

    transport = HttpTransport("http://pool", token="hunter2", transport=httpx.MockTransport(answer))
    with pytest.raises(AuthError, match="because") as caught:
        Client(transport, priority="eval").score(GROUPS)
    assert seen[0].headers["authorization"] == "Bearer hunter2"
    assert seen[0].url.params["priority"] == "eval"
    assert "hunter2" not in repr(caught.value)


def test_a_pool_that_has_answered_before_is_expected_back() -> None:
    answers = iter([error("RecordError", 422), None, error("TooLarge", 413)])

    def answer(request: httpx.Request) -> httpx.Response:
        found = next(answers)
        if found is None:
            raise httpx.ConnectError("refused")
        return found

    one = client(answer)
    with pytest.raises(RecordError):
        one.score(GROUPS)
    with pytest.raises(TooLarge):
        one.score(GROUPS)


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (httpx.ConnectError("refused"), Unavailable),
        (httpx.ConnectTimeout("silence"), Unavailable),
        (httpx.ReadError("cut"), ReplicaLost),
        (httpx.ReadTimeout("late"), DeadlineExceeded),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_call_that_never_arrived_is_told_from_one_that_was_lost(
    broken: Exception, kind: type[Exception]
) -> None:
    answers: list[Exception | None] = [None, broken]

    def answer(request: httpx.Request) -> httpx.Response:
        if found := answers.pop(0):
            raise found
        return error("RecordError", 422)

    transport = HttpTransport("http://pool", transport=httpx.MockTransport(answer))
    batch = to_batch(GROUPS).table
    with pytest.raises(RecordError):
        transport.send(batch, 60, "train")
    with pytest.raises(kind) as caught:
        transport.send(batch, 60, "train")
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, Unavailable), (500, ReplicaLost), (502, Unavailable), (403, PoolError)],
)
def test_what_others_say_in_a_pools_place_counts_once_it_was_there(
    status: int, kind: type[Exception]
) -> None:
    answers = [httpx.Response(status, text="of a proxy"), error("RecordError", 422)]
    answers.append(answers[0])
    transport = HttpTransport(
        "http://pool", transport=httpx.MockTransport(lambda _: answers.pop(0))
    )
    batch = to_batch(GROUPS).table
    for expected in (PoolError, RecordError, kind):
        with pytest.raises(expected, match=r"of a proxy|because") as caught:
            transport.send(batch, 60, "train")
        assert type(caught.value) is expected
