"""What no HTTP library sends: garbage, half a request, a gigabyte. The pool's processes live on in
bounded memory, and it still scores."""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from processes import own, replica_pids, rss_mb
from sample_records import GROUPS

from polar_ray.client import connect
from polar_ray.config import HttpConfig, PoolConfig, StubEngineConfig
from polar_ray.pool.local import pool

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]

NAME = "sockets"
MB = 1 << 20
GIANT_BYTES = int(os.environ.get("FUZZ_GIANT_BYTES", str(1 << 30)))
GIANTS = 16
GIANTS_AT_ONCE = 4
GUARD_S = 300.0
"""Ends a wait for what never happens."""

SILENT_S = 30.0
"""No answer for so long is none: some requests wait for a rest that never comes."""

SERVES_OWN = {"request id bytes", "value bytes"}
"""Serve's proxy answers 500 to headers that are not UTF-8, before it asks a router."""

Figure = Callable[[str], None]


@pytest.fixture(scope="module")
def url(cluster: None, tiny_dir: Path) -> Iterator[httpx.URL]:
    engine = StubEngineConfig()
    config = PoolConfig(model=str(tiny_dir), num_replicas=2, num_cpus=0.1, engine=engine)
    with pool(config, name=NAME, route_prefix="/sockets") as address:
        yield httpx.URL(address)


def serving() -> dict[str, list[int]]:
    """The processes that a request comes through."""
    return {
        "proxy": own(b"ray::ProxyActor"),
        "router": replica_pids(NAME, "Router"),
        "replicas": replica_pids(NAME),
    }


@pytest.fixture(autouse=True)
def _same_pool_after(url: httpx.URL) -> Iterator[None]:
    """Whatever a test sends, the same processes score afterwards, and hold nothing of it."""
    from ray import serve

    with connect(address=str(url)) as client:
        assert None not in client.score(GROUPS, timeout_s=GUARD_S)
        before = serving()
        yield
        assert None not in client.score(GROUPS, timeout_s=GUARD_S)
        assert serving() == before, "a process died"
    router = serve.get_app_handle(NAME)
    deadline = time.monotonic() + GUARD_S
    while (held := router.stats.remote().result(timeout_s=GUARD_S))["calls"] or held["held_bytes"]:
        assert time.monotonic() < deadline, f"the router still holds {held}"
        time.sleep(0.5)


def open_socket(url: httpx.URL) -> socket.socket:
    assert url.port is not None
    return socket.create_connection((url.host, url.port), timeout=GUARD_S)


def head(url: httpx.URL, *lines: str) -> bytes:
    """The beginning of a good request to score, with more headers."""
    fixed = [f"POST {url.path}/score HTTP/1.1", "Host: pool", "Content-Type: application/json"]
    return "\r\n".join([*fixed, *lines, "", ""]).encode("latin-1")


def last(url: httpx.URL, *lines: str) -> bytes:
    """The same for a connection's only request."""
    return head(url, *lines, "Connection: close")


def garbage(url: httpx.URL) -> dict[str, bytes]:
    """Requests that are none, by what is wrong with them."""
    chance = random.Random(20261123)
    body = b'{"records": []}'
    chunked = last(url, "Transfer-Encoding: chunked")
    path = f"{url.path}/score"
    good = f"Content-Length: {len(body)}"
    return {
        "noise": chance.randbytes(10_000),
        "zeros": bytes(10_000),
        "no version": f"POST {path}\r\n\r\n".encode(),
        "unknown version": f"POST {path} HTTP/9.9\r\n\r\n".encode(),
        "unknown method": f"SCORE {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
        "huge line": f"POST {path}?{'x' * MB} HTTP/1.1\r\n\r\n".encode(),
        "huge header": last(url, f"X-Huge: {'x' * MB}", good) + body,
        "many headers": last(url, *(f"X-{i}: {i}" for i in range(50_000))),
        "no colon": last(url, "nonsense", good) + body,
        "header bytes": last(url, "X-\xff\xfe: \xff\x80", good) + body,
        "value bytes": last(url, "X-Value: \xff\xfe\x80", good) + body,
        "request id bytes": last(url, "X-Request-Id: \xff\xfe", good) + body,
        "path bytes": b"GET /\xff\xfe%ff%00/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        "negative length": last(url, "Content-Length: -5") + body,
        "length no number": last(url, "Content-Length: many") + body,
        "two lengths": last(url, "Content-Length: 15", "Content-Length: 3") + body,
        "length and chunks": last(url, "Content-Length: 3", "Transfer-Encoding: chunked")
        + b"0\r\n\r\nPOST /smuggled HTTP/1.1\r\n\r\n",
        "bad chunk size": chunked + b"zz\r\n{}\r\n0\r\n\r\n",
        "huge chunk size": chunked + b"ffffffffffffffffff\r\n{}",
        "upgrade": head(url, "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0"),
        "expects": last(url, "Expect: 100-continue", good) + body,
        "serve's timeout": last(url, "X-Request-Timeout-Seconds: -nan", good) + body,
        "gzip": last(url, "Content-Encoding: gzip", good) + b"\x1f\x8b",
        "pipelined": (head(url, f"Content-Length: {len(body)}") + body) * 50,
    }


def outcome(answer: bytes) -> str:
    """The status of the first answer on a connection, or that there was none."""
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    return answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "closed"


def exchange(url: httpx.URL, data: bytes) -> str:
    """Sends bytes as they are and reads until there is a status, or nothing more comes."""
    found = b""
    with open_socket(url) as connection:
        connection.settimeout(SILENT_S)
        with suppress(OSError):
            connection.sendall(data)
        with suppress(OSError):
            while outcome(found) in ("closed", "100") and (part := connection.recv(1 << 16)):
                found += part
    return outcome(found)


def test_garbage_on_the_socket(url: httpx.URL, figure: Figure) -> None:
    requests = garbage(url)
    with ThreadPoolExecutor(len(requests)) as senders:  # together: some are silent until the end
        found = senders.map(lambda data: exchange(url, data), requests.values())
        answers = dict(zip(requests, found, strict=True))
    with suppress(OSError), open_socket(url) as plain:
        unverified = ssl._create_unverified_context()
        unverified.wrap_socket(plain, server_hostname="pool")
    figure(str(answers))
    wrong = {name for name, status in answers.items() if status.startswith("5")}
    assert wrong <= SERVES_OWN
    assert answers["pipelined"] == "200"


def test_half_a_body_and_a_client_that_is_gone(url: httpx.URL) -> None:
    """Some leave with a word, some with a reset, some stay silent with their body half sent."""
    silent = []
    for number in range(60):
        connection = open_socket(url)
        connection.sendall(head(url, f"Content-Length: {MB}") + b'{"records": [' + b" " * 5000)
        if number % 3 == 0:
            connection.close()
        elif number % 3 == 1:
            reset = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # linger for 0 s
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            connection.close()
        else:
            silent.append(connection)
    with connect(address=str(url)) as client:
        assert None not in client.score(GROUPS, timeout_s=GUARD_S), "others are served meanwhile"
    for connection in silent:
        connection.close()


def send_giant(url: httpx.URL, *, chunked: bool) -> str:
    """A body of `GIANT_BYTES`, as far as the pool lets it come; the answer's status."""
    block = b" " * MB
    if chunked:
        start, part = last(url, "Transfer-Encoding: chunked"), b"%x\r\n%s\r\n" % (MB, block)
    else:
        start, part = last(url, f"Content-Length: {GIANT_BYTES}"), block
    found: list[bytes] = []

    def listen(connection: socket.socket) -> None:
        with suppress(OSError):
            while data := connection.recv(1 << 16):
                found.append(data)

    with open_socket(url) as connection:
        connection.settimeout(GUARD_S)
        listener = threading.Thread(target=listen, args=(connection,))
        listener.start()
        with suppress(OSError):
            connection.sendall(start)
            for _ in range(GIANT_BYTES // MB):
                connection.sendall(part)
        listener.join(GUARD_S)
    return outcome(b"".join(found))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_bodies_of_a_gigabyte(url: httpx.URL, figure: Figure, chunked: bool) -> None:
    roles = ("proxy", "router")
    pids = serving()
    before = {role: rss_mb(pids[role]) for role in roles}
    most = dict(before)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for role in roles:
                most[role] = max(most[role], rss_mb(pids[role]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    with ThreadPoolExecutor(GIANTS_AT_ONCE) as senders:
        sent = [senders.submit(send_giant, url, chunked=chunked) for _ in range(GIANTS)]
        answers = Counter(sender.result() for sender in sent)
    took = time.monotonic() - began
    over.set()
    watcher.join()
    after = {role: rss_mb(pids[role]) for role in roles}
    memory = ", ".join(f"{r} {before[r]:.0f}, {most[r]:.0f}, {after[r]:.0f} MB" for r in roles)
    figure(
        f"{GIANTS} bodies of {GIANT_BYTES >> 20} MiB, {GIANTS_AT_ONCE} at once: {dict(answers)} "
        f"in {took:.0f} s; before, at most, after: {memory}"
    )
    assert set(answers) <= {"413", "closed"}
    # What is being sent, a few times over: queued, read, joined. Serve's proxy has no such bound:
    # it takes what comes for as long as the router does not answer.
    limit = HttpConfig().max_body_bytes / 1e6
    assert most["router"] - before["router"] < 4 * GIANTS_AT_ONCE * limit
