"""Nobody else may listen where a pool does: found before anything starts, with real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from polar_ray.errors import ConfigError
from polar_ray.pool.http import port as module
from polar_ray.pool.http.port import check_alone, check_number, check_port, free_port


@pytest.fixture
def listen() -> Iterator[Any]:
    """Starts listeners as Serve's proxies do; gives each one's port."""
    with ExitStack() as stack:

        def start(host: str, port: int = 0) -> int:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = stack.enter_context(closing(socket.socket(family)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                sock.bind((host, port))
            except OSError:
                pytest.skip(f"this machine has no {host}")
            sock.listen()
            found: int = sock.getsockname()[1]
            return found

        yield start


@pytest.mark.parametrize("there", ["127.0.0.1", "0.0.0.0", "::"])
@pytest.mark.parametrize("wanted", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_listener_that_would_share_is_found_and_named(
    listen: Any, there: str, wanted: str
) -> None:
    port = listen(there)
    with pytest.raises(ConfigError, match=f"port {port} of {wanted} is taken") as caught:
        check_port(wanted, port)
    assert f"by process {os.getpid()} (" in str(caught.value)
    assert "--port" in str(caught.value)


def test_what_callers_cannot_get_to_does_not_count(listen: Any) -> None:
    port = listen("127.0.0.2")
    check_port("127.0.0.1", port)
    with pytest.raises(ConfigError, match="is taken"):
        check_port("0.0.0.0", port)


def test_a_name_stands_for_all_its_addresses(listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    port = listen("127.0.0.2")
    both = [(socket.AF_INET, 1, 6, "", (f"127.0.0.{n}", port)) for n in (1, 2)]
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(ConfigError, match="of pool is taken"):
        check_port("pool", port)


def test_connections_that_a_former_server_has_closed_do_not_count() -> None:
    port = free_port()
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            assert client.recv(1) == b""
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("127.0.0.1", port))
    check_port("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 0, 65_536, 99_999])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=f"port {port}: take one from 1 to 65535"):
        check_number(port)


@pytest.mark.parametrize(
    ("host", "message"),
    [("no.such.host.invalid", "is no address"), ("192.0.2.1", "nothing can listen on .* here")],
)
def test_a_host_that_is_not_here_is_refused(host: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_port(host, 8000)


def test_two_clusters_on_a_port_are_told_apart(
    listen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listen("127.0.0.1")
    stranger = subprocess.Popen(
        [sys.executable, "-c", SHARE, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"listening\n"
        clusters = {os.getpid(): "--gcs-address=1", stranger.pid: "--gcs-address=1"}
        monkeypatch.setattr(module, "_cluster", clusters.get)
        check_alone("127.0.0.1", port)
        clusters[stranger.pid] = "--gcs-address=2"
        with pytest.raises(ConfigError, match=f"is shared with process {stranger.pid} "):
            check_alone("127.0.0.1", port)
        clusters[os.getpid()] = None  # type: ignore[assignment]
        check_alone("127.0.0.1", port)
        assert stranger.stdin is not None
        stranger.stdin.close()


SHARE = """
import socket, sys
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sock.bind(("127.0.0.1", int(sys.argv[1])))
sock.listen()
print("listening", flush=True)
sys.stdin.read()
"""


def test_serve_refuses_a_taken_port_before_ray_starts(listen: Any, tmp_path: Path) -> None:
    port = listen("127.0.0.1")
    code = "from polar_ray.cli import main; main()"
    for asked, message in [
        (port, f"error: port {port} of 127.0.0.1 is taken by process {os.getpid()}"),
        (99_999, "error: port 99999: take one"),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", code, "serve", "--port", str(asked), "engine.type=stub"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "RAY_ADDRESS": "local", "RAY_TMPDIR": str(tmp_path)},
        )
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == [], "Ray has started"
