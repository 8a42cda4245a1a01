"""HTTP without a cluster: the app around a scorer, every bad body a mapped answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from sample_records import BAD_ROWS, GROUPS
from scorer_as_router import ScorerAsRouter

from polar_ray.config import AdmissionConfig, HttpConfig, PoolConfig
from polar_ray.errors import (
    HTTP_STATUS,
    DeadlineExceeded,
    Overloaded,
    PolarRayError,
    RecordError,
    ReplicaLost,
)
from polar_ray.pool.http.bodies import read_body
from polar_ray.pool.http.json_body import JSON
from polar_ray.pool.http.routes import build_http
from polar_ray.pool.router.admission import Admission
from polar_ray.pool.router.deployment import Router
from polar_ray.records import check_scores, provenance
from polar_ray.scorer import Scorer
from polar_ray.stream import ARROW_STREAM, CONTENT_DIGEST, check_digest, digest, encode_arrow


@pytest.fixture
def router(scorer: Scorer) -> ScorerAsRouter:
    limits = AdmissionConfig(max_bytes=30_000)
    config = PoolConfig(
        http=HttpConfig(max_body_bytes=20_000, body_timeout_s=0.5), admission=limits
    )
    return ScorerAsRouter(scorer, config)


@pytest.fixture
def http(router: ScorerAsRouter) -> TestClient:
    return TestClient(build_http(lambda: router))


def post(http: TestClient, body: bytes, kind: str = "application/json") -> httpx.Response:
    return http.post("/score", content=body, headers={"content-type": kind})


def assert_serves(http: TestClient) -> None:
    """A good request right after a bad one."""
    answer = http.post("/score", json={"records": GROUPS[:1]})
    assert answer.status_code == 200
    assert answer.json()["results"][0]["error"] is None


def test_json_and_arrow_give_the_scorers_rows(http: TestClient, scorer: Scorer) -> None:
    expected = scorer.score(GROUPS)
    by_json = http.post("/score", json={"records": GROUPS}).json()
    assert by_json == {"results": expected.to_pylist(), "provenance": provenance(expected)}
    answer = post(http, encode_arrow(pa.Table.from_pylist(GROUPS)), ARROW_STREAM)
    assert answer.headers["content-type"] == ARROW_STREAM
    table = pa.ipc.open_stream(answer.content).read_all()
    assert check_scores(table, len(GROUPS)).equals(expected)
    assert provenance(table) == provenance(expected)


def test_accept_chooses_between_json_and_arrow(http: TestClient, scorer: Scorer) -> None:
    bodies = {JSON: orjson.dumps({"records": GROUPS})}
    bodies[ARROW_STREAM] = encode_arrow(pa.Table.from_pylist(GROUPS))
    for sent, body in bodies.items():
        for accept, wanted in [
            (JSON, JSON),
            (ARROW_STREAM, ARROW_STREAM),
            (f"{JSON}; q=0.5, text/plain", JSON),
            (f"{ARROW_STREAM}, {JSON}", sent),
            ("*/*", sent),
            (f"{JSON}, */*", sent),
            ("text/html", sent),
            ("", sent),
        ]:
            headers = {"content-type": sent, "accept": accept}
            answer = http.post("/score", content=body, headers=headers)
            assert answer.headers["content-type"] == wanted, (sent, accept)
            if wanted == JSON:
                assert answer.json()["results"] == scorer.score(GROUPS).to_pylist()
            else:
                table = pa.ipc.open_stream(answer.content).read_all()
                assert table.equals(scorer.score(GROUPS))


def test_messages_are_records_too(http: TestClient, scorer: Scorer) -> None:
    spoken = {key: [{"role": "user", "content": text}] for key, text in GROUPS[0].items()}
    answer = http.post("/score", json={"records": [spoken]}).json()
    assert answer["results"] == scorer.score(GROUPS[:1]).to_pylist()


def test_a_bad_row_is_data_and_its_neighbours_are_scored(http: TestClient) -> None:
    bad = [row for row, _ in BAD_ROWS if _is_json(row)]
    answer = http.post("/score", json={"records": [*bad, GROUPS[0]]})
    assert answer.status_code == 200
    rows = answer.json()["results"]
    assert len(rows) == len(bad) + 1
    assert all(row["score"] is None and row["error"] for row in rows[:-1])
    assert rows[-1]["score"] is not None


def _is_json(row: Any) -> bool:
    try:
        orjson.dumps(row)
    except TypeError:
        return False
    return True


def test_an_empty_list_has_an_empty_answer(http: TestClient) -> None:
    answer = http.post("/score", json={"records": []})
    assert (answer.status_code, answer.json()["results"]) == (200, [])


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 422, "not JSON"),
        (b"{", 422, "not JSON"),
        (b'{"records": [{"prompt": "\xff"}]}', 422, "not JSON in UTF-8"),
        (b"[]", 422, "must be an object"),
        (b"{}", 422, "must be an object"),
        (b'{"records": 5}', 422, "must be an object"),
        (b'{"records": [], "model": "x"}', 422, "unknown key.*model"),
        (
            b'{"records": [], "timeout_s": 60, "priority": "eval"}',
            422,
            r"POST /score\?timeout_s=60; priority .*: POST /score\?priority=eval$",
        ),
        (b'{"records": [{"prompt": "p", "answer": "a"}]}', 422, "'answer' in record 0"),
        (b'{"records": ["' + b"x" * 30_000 + b'"]}', 413, "max_body_bytes=20000"),
        (b'{"records": [NaN]}', 422, "not JSON"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_json_body_is_refused(
    http: TestClient, body: bytes, status: int, message: str
) -> None:
    import re

    answer = post(http, body)
    assert answer.status_code == status
    assert re.search(message, answer.json()["error"]["message"])
    assert_serves(http)


def _arrow(**columns: Any) -> bytes:
    values = {"prompt": ["p"], "reference": ["r"], "output": ["o"], **columns}
    return encode_arrow(pa.table(values))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not an Arrow IPC stream"),
        (b"garbage", "not an Arrow IPC stream"),
        (_arrow()[:-60], "not an Arrow IPC stream"),
        (_arrow(extra=["x"]), "unknown column.*'extra'"),
        (_arrow(output=[1]), "output is int64"),
        (_arrow(output=["unlikely"]).replace(b"unlikely", b"unlik\xffly"), "does not validate"),
    ],
    ids=["empty", "garbage", "cut", "extra", "type", "utf8"],
)
def test_a_bad_arrow_body_is_refused(http: TestClient, body: bytes, message: str) -> None:
    import re

    answer = post(http, body, ARROW_STREAM)
    assert answer.status_code == 422
    assert re.search(message, answer.json()["error"]["message"])
    assert_serves(http)


def test_an_unknown_content_type_is_refused(http: TestClient) -> None:
    answer = post(http, b"prompt,reference,output", "text/csv")
    assert answer.status_code == 422
    assert "text/csv" in answer.json()["error"]["message"]


def test_a_body_without_length_is_counted_as_it_comes(http: TestClient) -> None:
    chunks = iter([b"x" * 9_000] * 4)
    answer = http.post("/score", content=chunks, headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "error",
    [Overloaded("full", 3.0), ReplicaLost("gone"), DeadlineExceeded("late")],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_the_pool_have_their_status(
    http: TestClient, router: ScorerAsRouter, error: PolarRayError
) -> None:
    router.error = error
    answer = http.post("/score", json={"records": GROUPS})
    assert answer.status_code == HTTP_STATUS[type(error)]
    assert answer.json()["error"] == {"type": type(error).__name__, "message": str(error)}
    assert answer.headers.get("retry-after") == ("3" if isinstance(error, Overloaded) else None)
    assert http.get("/ready").status_code == HTTP_STATUS[type(error)]
    assert http.get("/health").status_code == 200


def test_the_deadline_is_passed_on_and_must_be_positive(
    http: TestClient, router: ScorerAsRouter
) -> None:
    http.post("/score?timeout_s=2.5", json={"records": GROUPS[:1]})
    assert router.timeouts == [2.5]
    for bad in ("-1", "0", "nan", "inf", "1e400", "soon", "1_0", " 5", "١"):
        answer = http.post(f"/score?timeout_s={bad}", json={"records": GROUPS[:1]})
        assert answer.status_code == 422
        assert "timeout_s" in answer.json()["error"]["message"]


def test_a_body_that_never_ends_is_given_up(router: ScorerAsRouter) -> None:
    scope = {"type": "http", "method": "POST", "path": "/score", "headers": []}

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(3600)
        raise AssertionError

    with pytest.raises(RecordError, match=r"took longer than http\.body_timeout_s=0\.01"):
        asyncio.run(read_body(Request(scope, receive), 1000, 0.01, lambda size: None))

    async def leave() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(RecordError, match="client left"):
        asyncio.run(read_body(Request(scope, leave), 1000, 10, lambda size: None))


def test_every_answer_that_is_not_200_has_the_error_body(
    http: TestClient, router: ScorerAsRouter
) -> None:
    for method, path, status in [
        ("GET", "/score", 405),
        ("POST", "/nope", 404),
        ("POST", "/health", 405),
    ]:
        answer = http.request(method, path)
        assert answer.status_code == status
        assert f"{method} {path}" in answer.json()["error"]["message"]
    assert http.get("/score").headers["allow"] == "POST"
    assert http.head("/score").status_code == 405
    gzip = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = http.post("/score", content=b"x", headers=gzip)
    assert "content-encoding 'gzip'" in answer.json()["error"]["message"]
    router.error = RuntimeError("a bug")
    careless = TestClient(build_http(lambda: router), raise_server_exceptions=False)
    answer = careless.post("/score", json={"records": []})
    assert answer.status_code == 500
    assert answer.json()["error"] == {"type": "PolarRayError", "message": "RuntimeError: a bug"}


def test_models_say_what_is_served(http: TestClient, scorer: Scorer) -> None:
    [model] = http.get("/v1/models").json()["data"]
    assert model["id"] == scorer.info.name
    assert model["model_digest"] == scorer.info.digest


def test_priorities_are_passed_on_and_must_exist(http: TestClient, router: ScorerAsRouter) -> None:
    for query in ("", "?priority=eval", "?priority=offline"):
        assert http.post(f"/score{query}", json={"records": GROUPS[:1]}).status_code == 200
    assert router.priorities == ["train", "eval", "offline"]
    answer = http.post("/score?priority=vip", json={"records": GROUPS[:1]})
    assert answer.status_code == 422
    assert "priority" in answer.json()["error"]["message"]


def test_bodies_are_refused_while_the_pool_is_full(
    http: TestClient, router: ScorerAsRouter
) -> None:
    with router.admission.call(0) as admit:
        admit(29_000)
        answer = http.post("/score", json={"records": GROUPS})
        assert answer.status_code == 429
        assert float(answer.headers["retry-after"]) > 0
        assert http.get("/health").status_code == 200
    assert_serves(http)


def test_half_a_body_is_given_back_with_its_call(router: ScorerAsRouter) -> None:
    """Whatever ends a call, what it held is free again, once."""

    async def post(*messages: dict[str, Any], cancel: bool = False) -> int:
        app, status = build_http(lambda: router), 0
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/score",
            "query_string": b"timeout_s=0.5",
            "headers": [(b"content-type", b"application/json")],
        }
        left = iter(messages)
        waiting = asyncio.Event()

        async def receive() -> dict[str, Any]:
            for message in left:
                return message
            waiting.set()
            await asyncio.sleep(3600)
            raise AssertionError

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        call = asyncio.create_task(app(scope, receive, send))
        if cancel:
            await waiting.wait()
            assert (router.admission.calls, router.admission.size_bytes) == (1, 5)
            call.cancel()
        await asyncio.wait([call])
        assert (router.admission.calls, router.admission.size_bytes) == (0, 0)
        return status

    half = {"type": "http.request", "body": b'{"rec', "more_body": True}
    gone = {"type": "http.disconnect"}
    rest = {"type": "http.request", "body": b'ords":[]}', "more_body": False}
    huge = {"type": "http.request", "body": b" " * 20_000, "more_body": True}
    assert asyncio.run(post(half, rest)) == 200
    assert asyncio.run(post(half, gone)) == 422
    assert asyncio.run(post(half, huge)) == 413
    assert asyncio.run(post(half, cancel=True)) == 0
    # The scorer in the router's place has no deadline; this is http.body_timeout_s.
    assert asyncio.run(post(half)) == 422


class Counting(Admission):
    """Remembers how many calls came in."""

    def __init__(self) -> None:
        super().__init__(AdmissionConfig())
        self.entered = 0
        self.there = asyncio.Event()

    def call(self, rank: int) -> Any:
        self.entered += 1
        self.there.set()
        return super().call(rank)


class NoReplicas:
    """What a router needs of the handle of its replicas."""

    app_name = "no replicas"
    score = heartbeat = reserve = None

    def options(self, **options: Any) -> NoReplicas:
        return self


def test_a_call_over_http_is_admitted_once() -> None:
    async def main() -> tuple[httpx.Response, Counting]:
        router = Router(PoolConfig(), NoReplicas())
        router.admission = counting = Counting()
        transport = httpx.ASGITransport(build_http(lambda: router))
        async with httpx.AsyncClient(transport=transport, base_url="http://pool") as http:
            call = asyncio.create_task(http.post("/score?timeout_s=5", json={"records": GROUPS}))
            await counting.there.wait()
            assert counting.calls == 1
            answer = await http.post("/score?timeout_s=0.004", json={"records": GROUPS})
            call.cancel()
            await asyncio.wait([call])
        return answer, counting

    answer, counting = asyncio.run(main())
    assert answer.status_code == 504
    assert "no answer within 0.004 s: the pool has no replica" in answer.json()["error"]["message"]
    assert (counting.entered, counting.calls, counting.size_bytes) == (2, 0, 0)


def test_a_deadline_that_ends_while_the_body_arrives_says_so() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(3600)

    async def main() -> httpx.Response:
        router = Router(PoolConfig(), NoReplicas())
        transport = httpx.ASGITransport(build_http(lambda: router))
        async with httpx.AsyncClient(transport=transport, base_url="http://pool") as http:
            answer = await http.post("/score?timeout_s=0.05", content=slow())
        assert router.admission.calls == 0
        return answer

    answer = asyncio.run(main())
    assert answer.status_code == 504
    assert answer.json()["error"]["message"] == "the body did not arrive within 0.05 s"


def test_headers_that_are_nonsense_are_no_bug(http: TestClient) -> None:
    long = "x" * 5000
    for headers in ({"content-type": long}, {"content-encoding": long}, {"content-length": "²"}):
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = http.post("/score", content=b"{}", headers=raw)  # type: ignore[arg-type]
        assert answer.status_code == 422
        assert len(answer.content) < 500
    for host in ("[", "[::1", "a b", "x" * 5000, "%"):
        answer = http.get("/nope", headers={"host": host})
        assert answer.status_code == 404
        assert "GET /nope" in answer.json()["error"]["message"]
    assert len(http.get("/" + long).content) < 500


def test_a_digest_is_computed_once_however_often_it_is_named(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []

    def counting(body: bytes) -> str:
        computed.append(body)
        return digest(body)

    monkeypatch.setattr("polar_ray.stream.digest", counting)
    body = orjson.dumps({"records": GROUPS})
    headers = {CONTENT_DIGEST: ", ".join([digest(body)] * 100)}
    assert http.post("/score", content=body, headers=headers).status_code == 200
    assert len(computed) == 1


def test_every_reference_of_the_openapi_page_resolves(http: TestClient) -> None:
    spec = http.get("/openapi.json").json()
    assert {"/score", "/health", "/ready", "/v1/models"} <= set(spec["paths"])
    names: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            names.extend(v for k, v in value.items() if k == "$ref")
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(spec)
    assert "#/components/schemas/ScoreBody" in names
    for name in names:
        assert name.removeprefix("#/components/schemas/") in spec["components"]["schemas"]


def test_a_body_that_was_changed_on_its_way_is_refused(http: TestClient) -> None:
    body = encode_arrow(pa.Table.from_pylist(GROUPS))
    headers = {"content-type": ARROW_STREAM, CONTENT_DIGEST: digest(body)}
    answer = http.post("/score", content=body, headers=headers)
    assert answer.status_code == 200
    check_digest(answer.headers[CONTENT_DIGEST], answer.content)
    changed = body.replace(b"What", b"Whaz", 1)
    assert changed != body
    answer = http.post("/score", content=changed, headers=headers)
    assert answer.status_code == 422
    assert "content-digest" in answer.json()["error"]["message"]


@pytest.mark.parametrize("route", ["/score", "/reward"])
@pytest.mark.parametrize("query", ["timeout_s=9&timeout_s=30", "priority=eval&priority=eval"])
def test_a_parameter_that_stands_there_twice_is_refused(
    http: TestClient, route: str, query: str
) -> None:
    answer = http.post(f"{route}?{query}", json={"records": GROUPS[:1]})
    assert answer.status_code == 422
    assert "stands there more than once" in answer.json()["error"]["message"]


@pytest.mark.parametrize("query", ["timout_s=1", "timeout_s=9&x", "priority=eval&Priority=train"])
def test_a_parameter_that_nobody_reads_is_refused(http: TestClient, query: str) -> None:
    answer = http.post(f"/score?{query}", json={"records": GROUPS[:1]})
    assert answer.status_code == 422
    message = answer.json()["error"]["message"]
    name = query.rpartition("&")[2].partition("=")[0]
    assert message == f"no such parameter: {name!r}; there are timeout_s, priority"
    assert_serves(http)
