"""Tokens: every route asks, several count, a changed file counts, nothing secret is shown."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from polar_ray.config import PoolConfig
from polar_ray.errors import ConfigError
from polar_ray.pool.http.auth import OPEN_PATHS, RELOAD_S, Tokens
from polar_ray.pool.http.routes import build_http

GOOD = {"authorization": "Bearer first-secret"}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# ours\nfirst-secret\n\n  second-secret \n")
    return path


@pytest.fixture
def tokens(path: Path, clock: Clock) -> Tokens:
    return Tokens(path, clock=clock)


def test_each_token_counts_and_nothing_else(tokens: Tokens) -> None:
    for good in ("Bearer first-secret", "bearer second-secret", "Bearer  first-secret "):
        assert tokens.allow(good)
    for bad in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "first-secret",
        "Basic first-secret",
        "Bearer first",
        "Bearer first-secret2",
        "Bearer # ours",
        "Bearer \udcff",
    ):
        assert not tokens.allow(bad), bad


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_a_token_counts_as_the_password_of_an_address(tokens: Tokens) -> None:
    for good in ("any:first-secret", ":second-secret"):
        assert tokens.allow(basic(good))
    for bad in ("first-secret", "first-secret:", "any:first", "any:first-secret:", "any:", ""):
        assert not tokens.allow(basic(bad)), bad
    for bad in ("Basic", "Basic :first-secret", "Basic /w==", "Digest first-secret"):
        assert not tokens.allow(bad), bad


def test_a_client_that_knows_an_address_alone_is_let_in(http: TestClient) -> None:
    assert http.get("http://any:first-secret@testserver/v1/models").status_code == 200
    assert http.get("http://any:wrong@testserver/v1/models").status_code == 401


def test_a_changed_file_is_read_again(tokens: Tokens, path: Path, clock: Clock) -> None:
    path.write_text("third-secret")
    assert tokens.allow("Bearer first-secret"), "not yet"
    clock.now += RELOAD_S
    assert not tokens.allow("Bearer first-secret")
    assert tokens.allow("Bearer third-secret")
    path.unlink()
    clock.now += RELOAD_S
    assert tokens.allow("Bearer third-secret"), "a file that is gone for a moment changes nothing"
    path.write_text("")
    clock.now += RELOAD_S
    assert not tokens.allow("Bearer third-secret"), "an empty file allows nobody"


def test_a_file_without_tokens_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Tokens(tmp_path / "absent")
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(ConfigError, match="holds no token"):
        Tokens(tmp_path / "empty")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa-token\n",
        b"a-token\r\nother\r\n",
        b"  a-token\t \n",
        b" # note\n\t#note\n#note\na-token",
        b"\n\r\n  \na-token\n\n",
    ],
    ids=["byte order mark", "CRLF", "spaces", "comments", "empty lines"],
)
def test_what_editors_do_to_a_file_does_not_count(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokens").write_bytes(content)
    tokens = Tokens(tmp_path / "tokens")
    assert tokens.allow("Bearer a-token")
    assert tokens.allow("bEARER a-token")
    for none in ("# note", "#note", "#", "\ufeffa-token", "a-token\r", "note", ""):
        assert not tokens.allow(f"Bearer {none}") or none.strip() == "a-token", none


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("good\ngeheimnis-ü\n".encode(), "line 2 is no token"),
        (b"a-secret # of the trainer\n", "line 1 is no token"),
        (b"two secrets\n", "line 1 is no token"),
        (b"good\n\na-secret\x00\n", "line 3 is no token"),
        ("a\u2028secret".encode(), "line 1 is no token"),
        (b"a-secret\xff\n", "byte 8 is not UTF-8"),
        ("a-secret\n".encode("utf-16"), "byte 0 is not UTF-8"),
    ],
    ids=["umlaut", "comment behind", "space", "control", "separator", "latin-1", "utf-16"],
)
def test_a_line_that_no_header_can_carry_is_named_and_not_shown(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"tokens.*cannot be read: {reason}") as caught:
        Tokens(path, clock=clock)
    path.write_text("first-secret")
    tokens = Tokens(path, clock=clock)
    path.write_bytes(content)
    clock.now += RELOAD_S
    assert tokens.allow("Bearer first-secret"), "a file that cannot be read changes nothing"
    assert reason in caplog.text
    for shown in (str(caught.value), caplog.text):
        assert "secret" not in shown
        assert "geheimnis" not in shown


class Guarded:
    """What the routes need of a router that has tokens."""

    config = PoolConfig()

    def __init__(self, tokens: Tokens | None) -> None:
        self.tokens = tokens

    async def score_read(self, *call: Any) -> Any:
        raise AssertionError("never reached")

    async def provenance(self) -> dict[str, str]:
        return {"model": "m"}

    async def ready(self) -> None:
        await asyncio.sleep(0)

    async def why_waiting(self) -> str:
        return "the pool's only replica waits for calls"


@pytest.fixture
def http(tokens: Tokens) -> TestClient:
    return TestClient(build_http(lambda: Guarded(tokens)))


def test_every_route_asks_for_a_token(http: TestClient) -> None:
    paths = [route.path for route in http.app.routes]  # type: ignore[attr-defined]
    assert {"/score", "/docs", "/openapi.json", "/v1/models"} <= set(paths)
    for path in [*paths, "/nowhere", "/health/", "//health", "/HEALTH", "/health/../score"]:
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "x"}):
                answer = http.request(method, path, headers=headers)
                if path in OPEN_PATHS:
                    assert answer.status_code in (200, 405)
                    continue
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
    assert "--token-file" in http.get("/v1/models").text, "the way of this project's commands"
    assert http.get("/v1/models", headers=GOOD).status_code == 200
    assert http.get("/openapi.json", headers=GOOD).status_code == 200


def test_two_headers_are_none(http: TestClient) -> None:
    twice = [("authorization", "Bearer wrong"), ("authorization", "Bearer first-secret")]
    assert http.get("/v1/models", headers=twice).status_code == 401  # type: ignore[arg-type]


def test_a_websocket_needs_a_token_too(http: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), http.websocket_connect("/health"):
        pass


def test_without_a_token_file_nobody_is_asked() -> None:
    http = TestClient(build_http(lambda: Guarded(None)))
    assert http.get("/v1/models").status_code == 200


def test_no_secret_is_logged_or_answered(
    http: TestClient, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = http.get("/v1/models", headers={"authorization": "Bearer hunter2"})
    path.write_text("rotated-secret")
    os.utime(path)
    clock.now += RELOAD_S
    assert http.get("/v1/models", headers=GOOD).status_code == 401
    shown = caplog.text + wrong.text
    for secret in ("hunter2", "first-secret", "rotated-secret"):
        assert secret not in shown
    assert "read 1 token(s)" in caplog.text
