"""Who waits for long is told why, and not twice; who does not wait hears nothing."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

from polar_ray.client import waiting as module
from polar_ray.client.http import HttpTransport
from polar_ray.client.waiting import News, Waiting


def test_a_reason_is_said_when_it_changes_and_each_minute() -> None:
    news = News()
    assert news.worth_saying("loads a model (12 s)", 0)
    assert not news.worth_saying("loads a model (22 s)", 10)
    assert news.worth_saying("works on 3 calls", 20)
    assert news.worth_saying("loads a model (42 s)", 30)
    assert not news.worth_saying("loads a model (99 s)", 89)
    assert news.worth_saying("loads a model (102 s)", 90)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.01)


def test_a_long_call_is_told_of_in_the_log_until_it_ends(
    quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    asked = threading.Semaphore(0)

    def ask() -> str:
        asked.release()
        return "the pool has no replica that runs"

    waiting = Waiting(ask)
    with waiting.call():
        for _ in range(3):
            assert asked.acquire(timeout=60)
    told = [record.getMessage() for record in caplog.records]
    assert told == ["waiting: the pool has no replica that runs"]
    assert caplog.records[0].levelname == "WARNING"
    for thread in threading.enumerate():
        if thread.name == "why-waiting":
            thread.join(60)
    assert not waiting._watched, "nobody waits any more"


def test_all_calls_are_watched_by_one_thread(quick: None) -> None:
    told: list[str] = []
    watching: set[int] = set()
    enough = threading.Event()

    def ask() -> str:
        watching.add(threading.get_ident())
        if len(told) == 2:
            enough.set()
        return "it works on calls" if told else "it loads a model"

    waiting = Waiting(ask)
    waiting.tell = told.append

    async def call() -> None:
        with waiting.call():
            await asyncio.to_thread(enough.wait, 60)

    async def main() -> None:
        await asyncio.gather(*(call() for _ in range(3)))

    asyncio.run(main())
    assert told == ["waiting: it loads a model", "waiting: it works on calls"]
    assert len(watching) == 1


def test_short_calls_hear_nothing() -> None:
    def ask() -> str:
        raise AssertionError("nobody waits")

    waiting = Waiting(ask)
    for _ in range(1000):
        with waiting.call():
            pass
    assert waiting._began == {}


def test_calls_whose_loop_was_closed_are_out_no_more() -> None:
    waiting = Waiting(lambda: "nothing")
    closed, loop = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        with waiting.call(closed), waiting.call(loop), waiting.call():
            waiting.forget_closed()
            assert len(waiting._began) == 3
            closed.close()
            waiting.forget_closed()
            assert len(waiting._began) == 2
        assert waiting._began == {}
    finally:
        loop.close()


REASON = "not ready: the pool's only replica loads a model (12 s)"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(200, json={"status": "ready", "waiting": "busy"}), "busy"),
        (httpx.Response(503, json={"error": {"type": "PoolError", "message": REASON}}), REASON),
        (httpx.Response(502, text="bad gateway"), "http://pool answers 502 to http://pool/ready"),
        (httpx.Response(200, json={"status": "ready"}), "http://pool answers 200 to"),
        (httpx.ConnectError("refused"), "http://pool does not answer (refused)"),
        (httpx.ReadTimeout(""), "http://pool does not answer (ReadTimeout)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_http_asks_whether_the_pool_is_ready(
    answer: httpx.Response | Exception, reason: str
) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "http://pool/ready"
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport = HttpTransport("http://pool", transport=httpx.MockTransport(respond))
    assert transport.why_waiting().startswith(reason)
