"""Connections of calls: each ends by its deadline, is used again by one call at a time, and makes
no noise when loops end."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from fake_pool import FakePool, fake_pool, score_of

from polar_ray.client import connect, lanes
from polar_ray.client import http as module
from polar_ray.client.event_loop import exchanges
from polar_ray.client.http import HttpTransport
from polar_ray.client.lanes import Lanes
from polar_ray.errors import DeadlineExceeded, PoolError
from polar_ray.records import to_batch

ROW = {"prompt": "p", "reference": "r", "output": "o"}
ONE = to_batch([ROW]).table
TESTS = Path(__file__).parents[1]
ENDLESS_S = 30.0
"""So long a server goes on for whom nobody leaves; no call here may last as long."""


# Deadlines.


@dataclass
class Odd:
    """A server that does something else than to answer."""

    address: str = ""
    left: threading.Event = field(default_factory=threading.Event)
    """Set when a client was the first to end."""


@contextmanager
def odd(answer: Callable[[socket.socket], None]) -> Iterator[Odd]:
    """A server that gives `answer` every connection, again and again for a while."""
    server = Odd()

    def serve(connection: socket.socket) -> None:
        end = time.monotonic() + ENDLESS_S
        try:
            with connection:
                while time.monotonic() < end:
                    answer(connection)
        except OSError:
            server.left.set()

    def accept() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        threading.Thread(target=accept, daemon=True).start()
        server.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield server
        listener.shutdown(socket.SHUT_RDWR)


def drip(first: bytes, then: bytes) -> Callable[[socket.socket], None]:
    begun: set[socket.socket] = set()

    def answer(connection: socket.socket) -> None:
        if connection not in begun:
            begun.add(connection)
            connection.recv(1 << 16)
            connection.sendall(first)
        connection.sendall(then)
        time.sleep(0.02)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "a header": (OK + b"x-a: ", b"a"),
    "answers before the answer": (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "an extension of a chunk": (OK + b"transfer-encoding: chunked\r\n\r\n1;", b"x"),
    "a body": (OK + b"content-length: 99999\r\n\r\n", b" "),
    "a body that ends with the connection": (OK + b"\r\n", b" "),
    "a body that is packed": (
        OK + b"content-encoding: gzip\r\ncontent-length: 99999\r\n\r\n\x1f\x8b\x08\x10" + bytes(6),
        b"a",
    ),
}


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> float:
    """A deadline."""
    monkeypatch.setattr(module, "GRACE_S", 0.0)
    monkeypatch.setattr(module, "ASK_TIMEOUT_S", 0.3)
    return 0.3


@pytest.mark.parametrize("dripped", [name for name in DRIPS if "packed" not in name])
def test_what_drips_ends_at_the_deadline(dripped: str, soon: float) -> None:
    with odd(drip(*DRIPS[dripped])) as server:
        transport = HttpTransport(server.address)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
            transport.send(ONE, soon, "train")
        assert server.left.wait(ENDLESS_S / 2)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
            asyncio.run(transport.send_async(ONE, soon, "train"))
        assert "does not answer" in transport.why_waiting()
        transport.close()


def test_a_packed_answer_is_not_waited_for(soon: float) -> None:
    with odd(drip(*DRIPS["a body that is packed"])) as server:
        transport = HttpTransport(server.address)
        for call in both(transport):
            with pytest.raises(PoolError, match="content-encoding gzip, which was not asked for"):
                call(60)
        transport.close()


def test_a_server_that_reads_slowly_ends_at_the_deadline(soon: float) -> None:
    def read(connection: socket.socket) -> None:
        if not connection.recv(64):
            raise ConnectionError
        time.sleep(0.02)

    much = to_batch([{**ROW, "output": "o" * (1 << 24)}]).table
    with odd(read) as server:
        transport = HttpTransport(server.address)
        with pytest.raises(DeadlineExceeded):
            transport.send(much, soon, "train")
        with pytest.raises(DeadlineExceeded):
            asyncio.run(transport.send_async(much, soon, "train"))
        transport.close()


def test_a_proxy_that_drips_ends_at_the_deadline(
    soon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with odd(drip(*DRIPS["a header"])) as proxy:
        for scheme in ("HTTP", "HTTPS"):
            monkeypatch.setenv(f"{scheme}_PROXY", proxy.address)
            transport = HttpTransport(f"{scheme.lower()}://pool.example")
            for call in both(transport):
                with pytest.raises(DeadlineExceeded):
                    call(soon)
            transport.close()


def test_a_client_that_is_closed_ends_its_calls() -> None:
    """A thread that waits for one would hold up the end of its process."""
    asked: set[socket.socket] = set()
    both_asked = threading.Event()

    def answer(connection: socket.socket) -> None:
        if not connection.recv(1 << 16):
            raise ConnectionError
        asked.add(connection)
        if len(asked) == 2:
            both_asked.set()

    with odd(answer) as server:
        client = connect(address=server.address, timeout_s=10 * ENDLESS_S)
        with ThreadPoolExecutor(2) as threads:
            calls = [
                threads.submit(client.score, [ROW]),
                threads.submit(asyncio.run, client.score_async([ROW])),
            ]
            assert both_asked.wait(ENDLESS_S)
            client.close()
            for call in calls:
                with pytest.raises(PoolError, match="the client has been closed"):
                    call.result(ENDLESS_S)
        assert server.left.wait(ENDLESS_S / 2)
        with pytest.raises(PoolError, match="the client has been closed"):
            client.score([ROW])


def test_a_call_that_is_given_up_leaves_its_server() -> None:
    with odd(drip(*DRIPS["a header"])) as server, connect(address=server.address) as client:

        async def give_up() -> None:
            await asyncio.wait_for(client.score_async([ROW], timeout_s=600), 0.3)

        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            asyncio.run(give_up())
        assert server.left.wait(ENDLESS_S / 2)


# What is read of an answer.


def both(transport: HttpTransport) -> list[Callable[[float], object]]:
    """A call that blocks, and one that is awaited."""
    return [
        lambda seconds: transport.send(ONE, seconds, "train"),
        lambda seconds: asyncio.run(transport.send_async(ONE, seconds, "train")),
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, "", bytes(1 << 24)), r"with more than \d+ bytes"),
        ((200, "gzip", gzip.compress(bytes(1 << 24))), "content-encoding gzip"),
        ((502, "", b"x" * (1 << 24)), "answered 502: xxx"),
        ((502, "gzip", gzip.compress(b"bad gateway")), "answered 502"),
    ],
    ids=["long", "a bomb", "a long error", "a packed error"],
)
def test_an_answer_is_read_within_bounds(answer: tuple[int, str, bytes], message: str) -> None:
    status, coding, body = answer
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        headers = {"content-encoding": coding}
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))

    transport = HttpTransport("http://pool", transport=httpx.MockTransport(respond))
    for call in both(transport):
        with pytest.raises(PoolError, match=message) as caught:
            call(60)
        assert len(str(caught.value)) < 400
    assert [request.headers["accept-encoding"] for request in seen] == ["identity"] * 2


def test_ids_and_reasons_of_any_length_come_back(pool: FakePool) -> None:
    rows = [{**ROW, "id": f"{at}" * (1 << 20)} for at in range(3)]
    with connect(address=pool.address) as client:
        found = client.score_table(rows)
    assert found["id"].to_pylist() == [row["id"] for row in rows]


# Connections that are kept.


@pytest.fixture
def pool() -> Iterator[FakePool]:
    with fake_pool() as pool:
        yield pool


def test_calls_use_connections_again(pool: FakePool) -> None:
    """Also calls of loops that have closed, and of another thread's."""
    with connect(address=pool.address) as client:
        for _ in range(3):
            assert client.score([ROW]) == [score_of(**ROW)]
        assert pool.connections == 1
        for _ in range(3):
            assert asyncio.run(client.score_async([ROW])) == [score_of(**ROW)]
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, client.score_async([ROW])).result()
        assert pool.connections == 1


def test_loops_of_two_threads_get_their_own_answers(pool: FakePool) -> None:
    rows = [{**ROW, "output": str(at)} for at in range(40)]

    async def one_by_one(client_rows: list[dict[str, str]]) -> list[float | None]:
        found = await asyncio.gather(*(client.score_async([row]) for row in client_rows))
        return [score for (score,) in found]

    with connect(address=pool.address) as client, ThreadPoolExecutor(2) as threads:
        parts = [rows[::2], rows[1::2]]
        found = list(threads.map(lambda part: asyncio.run(one_by_one(part)), parts))
    assert found == [[score_of(**row) for row in part] for part in parts]


def test_a_server_that_hangs_up_on_kept_connections_fails_no_call(pool: FakePool) -> None:
    pool.calls_per_connection = 1
    with connect(address=pool.address) as client:
        for _ in range(3):
            assert client.score([ROW], timeout_s=60) == [score_of(**ROW)]
            assert asyncio.run(client.score_async([ROW], timeout_s=60)) == [score_of(**ROW)]
    assert pool.connections > 3


QUIET = """
import asyncio, gc, sys, threading
from polar_ray.client import connect
row = {"prompt": "p", "reference": "r", "output": "o"}
def bare(client):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(client.score_async([row]))
    loop.close()
async def leave(client):
    task = asyncio.ensure_future(client.score_async([row] * 9))
    await asyncio.sleep(0.01)
with connect(address=sys.argv[1]) as client:
    for _ in range(3):
        asyncio.run(client.score_async([row]))
        asyncio.run(leave(client))
        bare(client)
        gc.collect()
    thread = threading.Thread(target=bare, args=(client,))
    thread.start()
    thread.join()
    client.score([row])
gc.collect()
"""


def test_loops_that_end_make_no_noise(pool: FakePool) -> None:
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    words = [sys.executable, "-W", "error::ResourceWarning", "-c", QUIET, pool.address]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=env)
    assert (done.returncode, done.stderr) == (0, "")


class Counted(httpx.MockTransport):
    """How many clients use it."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response] | None = None) -> None:
        super().__init__(answer or (lambda _: httpx.Response(200, text="yes")))
        self.made = self.closed = 0

    def client(self) -> httpx.AsyncClient:
        self.made += 1
        return httpx.AsyncClient(transport=self)

    async def aclose(self) -> None:
        self.closed += 1


def asked(over: Lanes) -> bytes:
    _, body = over.exchange(httpx.Request("GET", "http://x"), 60, 99)
    return body


def asked_in_a_loop(over: Lanes) -> bytes:
    return asyncio.run(over.exchange_async(httpx.Request("GET", "http://x"), 60, 99))[1]


def test_calls_at_the_same_time_have_a_lane_each(pool: FakePool) -> None:
    made: list[httpx.AsyncClient] = []

    def make() -> httpx.AsyncClient:
        made.append(httpx.AsyncClient())
        return made[-1]

    over = Lanes(make)
    together = threading.Barrier(5)

    def ask(_: int) -> int:
        together.wait(60)
        return over.exchange(httpx.Request("GET", pool.address), 60, 9999)[0].status_code

    with ThreadPoolExecutor(5) as threads:
        assert len(list(threads.map(ask, range(5)))) == 5
        first = len(made)
        assert len(list(threads.map(ask, range(5)))) == 5
    assert 1 <= first <= 5
    assert len(made) <= 5
    over.close()
    assert all(http.is_closed for http in made)


def test_a_lane_of_a_call_that_failed_is_closed() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("cut")

    counted = Counted(answer)
    for ask in (asked, asked_in_a_loop):
        with pytest.raises(httpx.ReadError):
            ask(Lanes(counted.client))
    assert (counted.made, counted.closed) == (2, 2)


@pytest.mark.parametrize("ask", [asked, asked_in_a_loop])
def test_connections_are_kept_for_a_while(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[Lanes], bytes]
) -> None:
    counted = Counted()
    over = Lanes(counted.client)
    assert [ask(over), ask(over)] == [b"yes"] * 2
    assert (counted.made, counted.closed) == (1, 0)
    monkeypatch.setattr(lanes, "REST_S", 0.0)
    assert ask(over) == b"yes"
    exchanges.run(asyncio.sleep(0.05), 60)
    assert counted.closed == 1
    monkeypatch.undo()
    assert ask(over) == b"yes"
    over.close()
    assert (counted.made, counted.closed) == (2, 2)
