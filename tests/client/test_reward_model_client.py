"""POLAR's own client: its texts to the byte, other servers' shapes to the letter, no None."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from sample_records import GROUPS
from scorer_as_router import ScorerAsRouter

import polar_ray
from polar_ray import RewardModelClient, encoding
from polar_ray.client import reward_model_client as module
from polar_ray.client.addresses import ask_around, urls
from polar_ray.client.http import HttpTransport
from polar_ray.client.servers import request
from polar_ray.config import ScorerConfig, StubEngineConfig
from polar_ray.encoding import template
from polar_ray.errors import (
    AuthError,
    ConfigError,
    DeadlineExceeded,
    Overloaded,
    PolarRayError,
    PoolError,
    RecordError,
    ReplicaLost,
    ScoreError,
    Unavailable,
)
from polar_ray.pool.http.routes import build_http
from polar_ray.records import Record
from polar_ray.scorer import Scorer

CASES = Path(__file__).parents[1] / "golden" / "encode.jsonl"
Answer = tuple[int, Any]


def cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def stub(tiny_dir: Path) -> Scorer:
    return Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig()))


@pytest.fixture
def client(tiny_dir: Path, stub: Scorer, monkeypatch: pytest.MonkeyPatch) -> RewardModelClient:
    """Of a pool in this process."""
    http = TestClient(build_http(lambda: ScorerAsRouter(stub)), base_url="http://pool")

    def pass_on(request: httpx.Request) -> httpx.Response:
        headers = dict(request.headers)
        found = http.request(
            request.method, str(request.url), content=request.content, headers=headers
        )
        return httpx.Response(found.status_code, content=found.content, headers=dict(found.headers))

    monkeypatch.setattr(
        module,
        "HttpTransport",
        lambda url, token: HttpTransport(url, transport=httpx.MockTransport(pass_on)),
    )
    return RewardModelClient(tiny_dir, 256, 64, server_address="pool")


# What it makes of records.


def test_its_texts_are_upstreams(
    internlm2_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "load_tokenizer", cache(encoding.load_tokenizer))
    made: dict[str, RewardModelClient] = {}
    for case in cases():
        settings = case["settings"]
        key = str(settings)
        made[key] = made.get(key) or RewardModelClient(str(internlm2_tokenizer_dir), **settings)
        assert made[key].encode(case["input"]) == case["text"]
        assert made[key].encode([case["input"], case["text"]]) == [case["text"]] * 2


def test_one_record_or_many_in_whatever_holds_them(client: RewardModelClient) -> None:
    row = GROUPS[0]
    text = template.text(**row)
    spoken = np.array([{"role": "user", "content": row["prompt"]}], dtype=object)
    many = [row, text, np.str_(text), Record(**row), {**row, "prompt": spoken}]
    assert client.encode(row) == client.encode(text) == text
    assert client.encode(many) == client.encode(tuple(many)) == [text] * 5
    objects = np.empty(2, dtype=object)
    objects[:] = [row, GROUPS[1]]
    assert client.encode(objects) == [text, template.text(**GROUPS[1])]
    assert client.encode([]) == client([]) == []


def test_numpys_integers_are_lengths(tiny_dir: Path) -> None:
    made = RewardModelClient(tiny_dir, np.int64(256), np.int32(64), "left")
    assert "b" * 60 in str(made.encode({"prompt": "Q", "reference": "a", "output": "b" * 300}))


def test_rewards_of_a_pool_are_those_of_its_scorer(client: RewardModelClient, stub: Scorer) -> None:
    rows = [*GROUPS[:7], {**GROUPS[7], "wrapper": "pretrain"}]
    expected = stub.score(rows)["score"].to_pylist()
    assert client(rows) == expected
    assert client(rows[0]) == expected[:1]
    assert client([rows[0], template.text(**rows[1])]) == expected[:2]
    assert client.ray_request_reward(client.encode(rows)) == expected


def test_its_own_limits_cut_and_the_pool_does_not(
    client: RewardModelClient, tiny_dir: Path
) -> None:
    row = {"prompt": "Q", "reference": "a", "output": "b " * 60}
    limits = {"max_length": 256, "max_response_length": 64}
    own = Scorer(
        ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig(), encoding=limits)  # type: ignore[arg-type]
    )
    assert client(row) == own.score([row])["score"].to_pylist()


def test_rows_without_a_reward_are_named(client: RewardModelClient) -> None:
    rows = [GROUPS[0], {"prompt": "p", "reference": None, "output": "o"}, "no template", GROUPS[1]]
    with pytest.raises(ScoreError) as caught:
        client(rows)
    assert set(caught.value.rows) == {1, 2}
    assert "null_field" in caught.value.rows[1]
    assert "bad_template" in caught.value.rows[2]
    with pytest.raises(RecordError, match="row 1: null_field"):
        client.encode(rows)
    with pytest.raises(RecordError, match="row 0 is dict; encode records first"):
        client.sglang_request_reward(rows)


@pytest.mark.parametrize("data", [None, 5, b"x", object()])
def test_what_is_no_record_is_an_error(client: RewardModelClient, data: object) -> None:
    for call in (client, client.encode):
        with pytest.raises(RecordError, match="give a record"):
            call(data)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"server_type": "openai"}, "use ray, sglang"),
        ({"response_cut_side": "up"}, "right or left"),
        ({"server_address": ""}, "host:port"),
        ({"max_length": 100, "max_response_length": 100}, "max_length=100 leaves no token"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_wrong_settings_are_explained(tiny_dir: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(PolarRayError, match=says):
        RewardModelClient(tiny_dir, **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_response_length": 0}, "max_response_length=0 leaves nothing"),
        ({"max_response_length": 1}, "max_response_length=1 leaves nothing"),
        ({"max_response_length": -1}, "max_response_length=-1 leaves nothing"),
        ({"max_response_length": True}, "max_response_length=True is no whole number"),
        ({"max_response_length": 2.9}, "max_response_length=2.9 is no whole number"),
        ({"max_length": "x"}, "max_length='x' is no whole number"),
        ({"max_length": None}, "max_length=None is no whole number"),
        ({"server_address": b"a:1"}, "server_address=b'a:1'; give host:port"),
        ({"server_address": None}, "server_address=None; give host:port"),
        ({"server_address": ["a:1", None]}, "give host:port, or several in a list"),
        ({"server_address": "a:99999"}, "server_address: Port out of range"),
        ({"token": ""}, "^token: it must be a text of printable ASCII"),
        ({"token": "secret\n"}, "^token: it must be a text of printable ASCII"),
        ({"token": "sécret"}, "^token: it must be a text of printable ASCII"),
        ({"token": b"secret"}, "^token: it must be a text of printable ASCII"),
    ],
    ids=str,
)
def test_what_would_change_texts_or_go_elsewhere_is_refused(
    tiny_dir: Path, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        RewardModelClient(tiny_dir, **settings)
    assert "cret" not in str(caught.value), "a token is not shown"


def test_without_a_tokenizer_it_says_what_is_missing(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="holds neither"):
        RewardModelClient(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"needs a tokenizer; .*pip install 'DIR\[engine\]'"):
        RewardModelClient(tiny_dir)


def test_it_is_a_public_name() -> None:
    assert polar_ray.RewardModelClient is RewardModelClient


# Other servers.


def test_requests_are_those_that_the_servers_know() -> None:
    told = {
        kind: request(kind, ["a", "b"], named, activation=False)
        for kind, named in [("sglang", "m"), ("vllm", None), ("lmdeploy", None)]
    }
    assert told == {
        "sglang": ("/classify", {"model": "m", "text": ["a", "b"]}),
        "vllm": ("/pooling", {"input": ["a", "b"], "use_activation": False}),
        "lmdeploy": ("/pooling", {"input": ["a", "b"]}),
    }


class Server:
    """Gives the answers in turn, the last one for ever."""

    def __init__(self, answers: list[Answer]) -> None:
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append((self.path, body, self.headers["authorization"]))
                status, answer = answers[min(len(outer.asked), len(answers)) - 1]
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*answers: Answer) -> Server:
        servers.append(Server(list(answers)))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


GOOD = [{"embedding": [-1.5]}]
TEXT = template.text(**GROUPS[0])


def test_a_server_is_asked_again_after_its_own_failures(
    tiny_dir: Path, serve: Callable[..., Server]
) -> None:
    server = serve((503, {}), (429, {}), (200, {"error": "x"}), (200, GOOD))
    client = RewardModelClient(
        tiny_dir, 256, 64, server_type="sglang", server_address=server.address, token="t"
    )
    assert client.sglang_request_reward(TEXT, retry_delay=0) == [-1.5]
    assert server.asked == [("/classify", {"model": "tiny", "text": [TEXT]}, "Bearer t")] * 4


@pytest.mark.parametrize(
    ("answer", "tries", "kind"),
    [
        ((503, "busy"), 3, PoolError),
        ((200, [{"embedding": [1.0, 2.0]}]), 3, PoolError),
        ((400, "a bad call"), 1, RecordError),
        ((401, "no token"), 1, AuthError),
    ],
)
def test_it_gives_up_with_an_error(
    tiny_dir: Path,
    serve: Callable[..., Server],
    answer: Answer,
    tries: int,
    kind: type[PolarRayError],
) -> None:
    server = serve(answer)
    client = RewardModelClient(
        tiny_dir, 256, 64, server_type="sglang", server_address=server.address
    )
    with pytest.raises(kind):
        client.sglang_request_reward([TEXT], retry_delay=0, max_retries=3)
    assert len(server.asked) == tries


def test_one_of_several_servers_is_enough(tiny_dir: Path, serve: Callable[..., Server]) -> None:
    broken, good = serve((500, {})), serve((200, GOOD))
    addresses = f"127.0.0.1:9, {broken.address},{good.address}"
    client = RewardModelClient(tiny_dir, 256, 64, server_type="sglang", server_address=addresses)
    assert [client(GROUPS[0]) for _ in range(8)] == [[-1.5]] * 8
    assert len(good.asked) == 8


def test_a_server_that_never_answers_ends_by_the_deadline(tiny_dir: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        client = RewardModelClient(
            tiny_dir, 256, 64, server_type="vllm", server_address=address, timeout_s=0.3
        )
        with pytest.raises(DeadlineExceeded):
            client(GROUPS[0])


@pytest.mark.parametrize("drop", [b"x-header: 1\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"])
def test_a_server_that_drips_ends_by_the_deadline(tiny_dir: Path, drop: bytes) -> None:
    import socket

    left = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"" if drop.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n")
            try:
                while not left.wait(0.02):
                    connection.sendall(drop)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        client = RewardModelClient(
            tiny_dir, 256, 64, server_type="vllm", server_address=address, timeout_s=0.5
        )
        try:
            with pytest.raises(DeadlineExceeded):
                client.vllm_request_reward([TEXT], max_retries=1)
        finally:
            left.set()
            thread.join()


def test_an_answer_has_bounds(tiny_dir: Path, serve: Callable[..., Server]) -> None:
    server = serve((200, [{"embedding": [-1.5], "more": "x" * 1_000_000}]))
    client = RewardModelClient(
        tiny_dir, 256, 64, server_type="sglang", server_address=server.address
    )
    with pytest.raises(PoolError, match="more than"):
        client.sglang_request_reward([TEXT], max_retries=1)


# Who is asked when.


def test_addresses_are_urls() -> None:
    assert urls("a:1, https://b/x/,c") == ["http://a:1", "https://b/x", "http://c"]
    assert urls(["a:1", "b:2"]) == ["http://a:1", "http://b:2"]
    for wrong in ("", "a,,b", [], [" "]):
        with pytest.raises(ConfigError):
            urls(wrong)


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def ask_all(
    ask: Callable[[str, float], list[float]], wait: float = 1.0, timeout_s: float = 10
) -> list[float]:
    time = Time()
    return ask_around(
        ["a", "b"],
        ask,
        timeout_s=timeout_s,
        wait=lambda error, rounds: wait,
        clock=lambda: time.now,
        sleep=time.sleep,
    )


@pytest.mark.parametrize("error", [Unavailable("x"), ReplicaLost("x"), Overloaded("x")])
def test_the_next_address_is_asked_at_once(error: PoolError) -> None:
    asked: list[str] = []

    def ask(target: str, seconds: float) -> list[float]:
        asked.append(target)
        if len(asked) == 1:
            raise error
        return [1.0]

    assert ask_all(ask) == [1.0]
    assert sorted(asked) == ["a", "b"]


def test_what_all_would_say_is_raised_at_once() -> None:
    asked: list[str] = []

    def ask(target: str, seconds: float) -> list[float]:
        asked.append(target)
        raise ScoreError({0: "null_field"})

    with pytest.raises(ScoreError):
        ask_all(ask)
    assert len(asked) == 1


def test_rounds_end_before_the_deadline() -> None:
    shares: list[float] = []

    def ask(target: str, seconds: float) -> list[float]:
        shares.append(seconds)
        raise Unavailable("x")

    with pytest.raises(Unavailable):
        ask_all(ask, wait=4)
    assert shares == [5, 10, 3, 6, 1, 2]


def test_httpx_says_nothing_of_its_own(tiny_dir: Path) -> None:
    client = RewardModelClient(
        tiny_dir, 256, 64, server_type="lmdeploy", server_address="127.0.0.1:9"
    )
    with pytest.raises(PoolError, match="cannot reach") as caught:
        client.lmdeploy_request_reward([TEXT], retry_delay=0, max_retries=2)
    assert not isinstance(caught.value, httpx.HTTPError)
