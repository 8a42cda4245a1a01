"""A pool that is deleted under calls: who waits for its replicas hears of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sample_records import GROUPS

from polar_ray.client import Client, connect
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.errors import PoolError
from polar_ray.pool.local import pool

pytestmark = pytest.mark.ray

CALLERS = 15
BATCH = [{**record, "output": f"{record['output']} {i}"} for i in range(50) for record in GROUPS]
DELETED = "pool 'gone' was deleted while this call waited"


class Calls:
    """Calls in threads, and what became of each."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []

    def start(self, call: Callable[[], object]) -> None:
        def run() -> None:
            try:
                call()
            except PoolError as error:
                self.heard[f"{type(error).__name__}: {error}"] += 1
            else:
                self.heard["answered"] += 1

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def scoring(client: Client) -> Callable[[], object]:
    return lambda: client.score(BATCH, timeout_s=300)


def test_calls_that_wait_for_a_deleted_pool_end_and_say_so(cluster: None, tiny_dir: Path) -> None:
    """A call takes a replica several seconds here, so that most of them wait."""
    from ray import serve

    engine = StubEngineConfig(seconds_per_token=0.001)
    config = PoolConfig(
        model=str(tiny_dir), num_replicas=2, num_cpus=0.1, engine=engine, max_tokens=256
    )
    by_handle, by_http, plain = Calls(), Calls(), Calls()
    with pool(config, name="gone", route_prefix="/gone") as url, connect(address=url) as web:
        handle = connect(app_name="gone")
        assert handle.score(GROUPS[:1]) == web.score(GROUPS[:1])
        for _ in range(CALLERS):
            by_handle.start(scoring(handle))
            by_http.start(scoring(web))
        answers: list[httpx.Response] = []
        post = {"records": BATCH}
        plain.start(lambda: answers.append(httpx.post(f"{url}/score", json=post, timeout=300)))
        until_waiting(handle, 2 * CALLERS + 1)
        serve.delete("gone")
        for calls in (by_handle, by_http, plain):
            calls.join()
        with pytest.raises(PoolError, match="does not run any more"):
            handle.score(GROUPS, timeout_s=60)
    for calls in (by_handle, by_http):
        told = calls.heard[f"PoolError: {DELETED}"]
        assert told + calls.heard["answered"] == CALLERS, calls.heard
        assert told > 0, "all were answered before they could be told"
    [answer] = answers
    assert answer.status_code in (200, 503)
    if answer.status_code == 503:
        assert answer.json()["error"] == {"type": "PoolError", "message": DELETED}


def until_waiting(client: Client, calls: int) -> None:
    """Returns once the pool holds so many calls."""
    from ray import serve

    stats = serve.get_app_handle("gone").stats
    deadline = time.monotonic() + 60
    while stats.remote().result()["calls"] < calls:
        assert time.monotonic() < deadline, "the calls do not reach the pool"
        time.sleep(0.1)
