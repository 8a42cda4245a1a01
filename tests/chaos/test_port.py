"""Two pools on one port of a machine: one serves, the other says why it does not. Each in a process
and on a cluster of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import yaml
from processes import MARK, kill, marked
from sample_records import GROUPS

from polar_ray.pool.http.port import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PATIENCE_S = 120.0
SERVE = [sys.executable, "-c", "from polar_ray.cli import main; main()", "serve"]
STUB = ["num_cpus=0.1", "engine.type=stub"]


class Server:
    """A command that serves, and what it says."""

    def __init__(self, command: list[str], log: Path, mark: str) -> None:
        self.log = log
        env = {**os.environ, MARK: mark, "RAY_ADDRESS": "local", "RAY_SERVE_LOG_TO_STDERR": "1"}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, cwd=log.parent, env=env, stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < deadline, self.said[-4000:]
            time.sleep(0.2)

    @property
    def decided(self) -> bool:
        """It serves, or has given up."""
        return "is ready" in self.said or self.process.poll() is not None

    def stop(self, *signals: int) -> int:
        """Ends it as a user would; its exit code."""
        for number in signals:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
                time.sleep(0.3)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    mark = uuid4().hex
    started: list[Server] = []

    def start(*command: str) -> Server:
        started.append(Server(list(command), tmp_path / f"log{len(started)}", mark))
        return started[-1]

    yield start
    kill(*marked(mark))
    for server in started:
        server.process.wait(10)


def scores(port: int, calls: int) -> set[float]:
    """Each call over a connection of its own, which the kernel gives to any listener."""
    found = set()
    for _ in range(calls):
        answer = httpx.post(f"http://127.0.0.1:{port}/score", json={"records": GROUPS[:1]})
        found.add(answer.json()["results"][0]["score"])
    return found


def test_the_second_is_refused_and_the_first_serves_on(serve: Callable[..., Server]) -> None:
    port = free_port()
    first = serve(*SERVE, "--port", str(port), *STUB)
    first.until(lambda: first.decided)
    second = serve(*SERVE, "--port", str(port), *STUB, "engine.salt=7")
    assert second.process.wait(PATIENCE_S) == 2
    assert f"port {port} of 127.0.0.1 is taken by process" in second.said
    assert len(scores(port, 40)) == 1
    assert first.stop(signal.SIGINT, signal.SIGINT) == 0


def test_of_two_at_the_same_moment_no_more_than_one_serves(serve: Callable[..., Server]) -> None:
    port = free_port()
    both = [serve(*SERVE, "--port", str(port), *STUB, f"engine.salt={n}") for n in range(2)]
    for server in both:
        server.until(lambda server=server: server.decided)  # type: ignore[misc]
    serving = [server for server in both if server.process.poll() is None]
    assert len(serving) <= 1
    for server in both:
        if server not in serving:
            assert f"port {port} of 127.0.0.1 is" in server.said, server.said[-4000:]
    if serving:
        assert len(scores(port, 40)) == 1
        assert serving[0].stop(signal.SIGTERM, signal.SIGTERM) == 0


def test_serve_run_beside_a_pool_does_not_become_ready(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    port = free_port()
    first = serve(*SERVE, "--port", str(port), *STUB)
    first.until(lambda: first.decided)
    settings = {"num_cpus": 0.1, "engine": {"type": "stub", "salt": 7}}
    config = {
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [{"name": "polar", "import_path": "polar_ray:app", "args": settings}],
    }
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    second = serve(str(Path(sys.executable).with_name("serve")), "run", "serve.yaml")
    second.until(lambda: f"port {port} of 127.0.0.1 is shared with process" in second.said)
    second.stop(signal.SIGINT)
    assert len(scores(port, 40)) == 1
