"""`serve run` with a config that listens on all addresses: refused without a token file, and with
one nobody gets in without a token. In a process and on a cluster of its own, because the address
belongs to the cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from processes import below, kill
from sample_records import GROUPS

from polar_ray.client import connect
from polar_ray.errors import AuthError
from polar_ray.pool.http.port import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOKEN = "a-token-of-this-test"
PATIENCE_S = 300.0
"""Ends a wait for what never happens."""


@contextmanager
def serve_run(folder: Path, model: Path, port: int, **http: Any) -> Iterator[Path]:
    """`serve run` of a config that listens everywhere; yields the file that it writes to."""
    settings = {"model": str(model), "num_cpus": 0.1, "engine": {"type": "stub"}, "http": http}
    config = {
        "http_options": {"host": "0.0.0.0", "port": port},
        "applications": [{"name": "polar", "import_path": "polar_ray:app", "args": settings}],
    }
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    serve = Path(sys.executable).with_name("serve")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [serve, "run", "serve.yaml"],
            cwd=folder,
            env={**os.environ, "RAY_ADDRESS": "local", "RAY_SERVE_LOG_TO_STDERR": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield folder / "log"
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends it as a user would, and what it started if that does not help."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        kill(*(pid for pid in pids if below(pid, process.pid)))
        process.wait(10)


def until(is_so: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.5)


def answers(url: str) -> bool:
    try:
        return httpx.get(url + "/ready", timeout=PATIENCE_S).status_code == 200
    except httpx.HTTPError:
        return False


def test_without_a_token_it_does_not_start_and_says_what_to_do(
    tmp_path: Path, tiny_dir: Path
) -> None:
    port = free_port()
    with serve_run(tmp_path, tiny_dir, port) as log:
        until(lambda: "http.token_file=FILE" in log.read_text(), log)
        said = log.read_text()
        assert "HTTP would listen on 0.0.0.0 without a token" in said
        until(lambda: "Failed to update the deployments ['Router']" in log.read_text(), log)
        assert not answers(f"http://127.0.0.1:{port}")


def test_with_tokens_it_starts_and_asks_for_one(tmp_path: Path, tiny_dir: Path) -> None:
    port = free_port()
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    url = f"http://127.0.0.1:{port}"
    with serve_run(tmp_path, tiny_dir, port, token_file=str(tokens)) as log:
        until(lambda: answers(url), log)
        body = {"records": GROUPS}
        for headers in ({}, {"authorization": "Bearer guess"}, {"authorization": TOKEN}):
            answer = httpx.post(url + "/score", json=body, headers=headers, timeout=PATIENCE_S)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        for page in ("/docs", "/openapi.json", "/v1/models", "/nowhere"):
            assert httpx.get(url + page, timeout=PATIENCE_S).status_code == 401
        with connect(address=url) as client, pytest.raises(AuthError):
            client.score(GROUPS)
        with connect(address=url, token=TOKEN) as client:
            assert None not in client.score(GROUPS)
        assert TOKEN not in log.read_text()
