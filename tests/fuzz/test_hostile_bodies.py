"""Bodies that are small to send and large to decode, to a live pool, eight at once: its router's
memory stays bounded, and it answers others meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import orjson
import pytest
from fuzz.hostile import hostile_bodies
from processes import replica_pids, rss_mb
from sample_records import GROUPS

from polar_ray.client import connect
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.pool.local import pool

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

NAME = "hostile"
SIZE_BYTES = int(os.environ.get("FUZZ_HOSTILE_BYTES", str(63 << 20)))
AT_ONCE = 8
Figure = Callable[[str], None]


@pytest.fixture(scope="module")
def url(cluster: None, tiny_dir: Path) -> Iterator[str]:
    engine = StubEngineConfig()
    config = PoolConfig(model=str(tiny_dir), num_replicas=2, num_cpus=0.1, engine=engine)
    with pool(config, name=NAME, route_prefix="/hostile") as address:
        yield address


class Watch:
    """The router's largest memory, and how long `/health` and an honest call took; and the page of
    Serve's proxy, which asks no router: what that takes, the router cannot help."""

    def __init__(self, url: str) -> None:
        self._url, self._over = url, threading.Event()
        [self._pid] = replica_pids(NAME, "Router")
        self.before = self.most = rss_mb([self._pid])
        self.health: list[float] = []
        self.proxy: list[float] = []
        self.honest: list[float] = []
        self._threads = [
            threading.Thread(target=self._memory),
            threading.Thread(target=self._calls),
            threading.Thread(target=self._ask, args=(f"{url}/health", self.health)),
            threading.Thread(target=self._ask, args=(f"{_root(url)}/-/healthz", self.proxy)),
        ]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _memory(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, rss_mb([self._pid]))

    def _ask(self, page: str, times: list[float]) -> None:
        with httpx.Client(timeout=120) as http:
            while not self._over.wait(0.02):
                began = time.monotonic()
                assert http.get(page).status_code == 200
                times.append(time.monotonic() - began)

    def _calls(self) -> None:
        body = orjson.dumps({"records": GROUPS * 20})
        with httpx.Client(timeout=120) as http:
            while not self._over.wait(0.1):
                began = time.monotonic()
                answer = http.post(f"{self._url}/score", content=body)
                assert answer.status_code == 200, answer.text
                assert all(row["score"] is not None for row in answer.json()["results"])
                self.honest.append(time.monotonic() - began)

    def __str__(self) -> str:
        def worst(times: list[float]) -> str:
            times = sorted(times) or [0.0]
            return f"p50 {times[len(times) // 2]:.3f}, worst {times[-1]:.2f} s of {len(times)}"

        return (
            f"router {self.before:.0f} MB, at most {self.most:.0f} MB; /health {worst(self.health)}"
            f"; proxy alone {worst(self.proxy)}; honest calls {worst(self.honest)}"
        )


def _root(url: str) -> str:
    return str(httpx.URL(url).copy_with(path="/")).rstrip("/")


def send(url: str, body: bytes) -> int:
    with httpx.Client(timeout=600) as http:
        return http.post(f"{url}/score", content=body).status_code


def test_nothing_hostile_is_there(url: str, figure: Figure) -> None:
    """What `/health` and an honest call take by themselves."""
    with Watch(url) as watch:
        time.sleep(5)
    figure(str(watch))


@pytest.mark.parametrize("name", hostile_bodies(0))
@pytest.mark.parametrize("at_once", [1, AT_ONCE])
def test_hostile_bodies(url: str, figure: Figure, name: str, at_once: int) -> None:
    body = hostile_bodies(SIZE_BYTES)[name]()
    with Watch(url) as watch, ThreadPoolExecutor(at_once) as senders:
        began = time.monotonic()
        answers = Counter(senders.map(lambda _: send(url, body), range(at_once)))
        took = time.monotonic() - began
    times = (watch.most - watch.before) * 1e6 / (at_once * len(body))
    figure(f"{dict(answers)} in {took:.1f} s; {watch}, {times:.1f} times what was sent")
    assert set(answers) <= {200, 413, 422}
    with connect(address=url) as client:
        assert None not in client.score(GROUPS, timeout_s=60)
    assert watch.most - watch.before < 4.5 * at_once * len(body) / 1e6 + 64
