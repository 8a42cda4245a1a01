"""Each adapter inside the code of its trainer, against a live pool.

`POLAR_RAY_TRAINERS` names a folder with an environment for each trainer (`NAME/venv`, and where a
trainer is used from its sources `NAME/src`). What an environment lacks of this project's base
dependencies is installed there first.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from polar_ray.pool.http.port import free_port

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "real"
BASE = ("httpx", "numpy", "orjson", "pyarrow", "pydantic", "yaml", "rich", "typer")
PACKAGES = ["pyyaml" if name == "yaml" else name for name in BASE]
SOURCES = {
    "nemo_rl": ["src"],
    "prime_rl": ["src/src", "src/packages/prime-rl-configs/src"],
    "roll": ["src"],
    "slime": ["src"],
    "xtuner": ["src"],
}
"""Folders of an environment that its program has on its path."""

TRAINERS = [
    "trl",
    "verl",
    "openrlhf",
    "slime",
    "ms_swift",
    "verifiers",
    "prime_rl",
    "skyrl",
    "areal",
    "xtuner",
    "nemo_rl",
    "nemo_gym",
    "roll",
]
STOPS = {"trl": "left out", "areal": "rejected", "prime_rl": "dropped"}
"""Trainers that do more with a row without a score than to stop."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def trainers() -> Path:
    folder = os.environ.get("POLAR_RAY_TRAINERS")
    if folder is None:
        pytest.skip("POLAR_RAY_TRAINERS names no folder with trainers' environments")
    return Path(folder).absolute()


@pytest.fixture(scope="module")
def live(trainers: Path) -> Iterator[str]:
    """A pool of two replicas with the built-in model."""
    port = free_port()
    main = "from polar_ray.cli import main; main()"
    command = [sys.executable, "-c", main, "serve", "--port", str(port)]
    command += ["num_replicas=2", "num_cpus=0.5"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as serving:
        try:
            assert serving.stderr is not None
            said = list[str]()
            for line in serving.stderr:
                said.append(line)
                if "is ready" in line:
                    break
            else:
                pytest.fail("".join(said))
            threading.Thread(target=serving.stderr.read, daemon=True).start()
            yield f"http://127.0.0.1:{port}"
        finally:
            serving.terminate()
            serving.wait(120)


@contextmanager
def dying(address: str) -> Iterator[str]:
    """A way to a pool. Once it is asked to die (GET /die), it breaks all connections when the next
    call has come, and is gone."""
    host, _, port = address.removeprefix("http://").partition(":")
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    way = f"http://127.0.0.1:{listener.getsockname()[1]}"
    ends: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket, data: bytes = b"") -> None:
        with suppress(OSError):
            while data or (data := source.recv(1 << 16)):
                sink.sendall(data)
                data = b""
            sink.shutdown(socket.SHUT_WR)

    def carry() -> None:
        with suppress(OSError):
            dies = False
            while True:
                near, _ = listener.accept()
                ends.append(near)
                begun = near.recv(1 << 16)
                if dies:
                    break
                if begun.startswith(b"GET /die"):
                    dies = True
                    end_all(ends[:-1])  # kept connections, so that the next call needs a new one
                    near.sendall(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n")
                    continue
                far = socket.create_connection((host, int(port)))
                ends.append(far)
                threading.Thread(target=pump, args=(near, far, begun), daemon=True).start()
                threading.Thread(target=pump, args=(far, near), daemon=True).start()
        listener.close()
        end_all(ends)

    def end_all(connections: list[socket.socket]) -> None:
        for end in connections:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    threading.Thread(target=carry, daemon=True).start()
    try:
        yield way
    finally:
        listener.close()


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def prepare(python: Path) -> None:
    """Installs what the environment lacks of the base dependencies."""
    look = f"import {', '.join(BASE)}"
    if subprocess.run([python, "-c", look], capture_output=True).returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)


def run(name: str, trainers: Path, live: str, cwd: Path) -> list[dict[str, Any]]:
    """The reports of a program, in order; trainers leave files in `cwd`."""
    folder = trainers / name
    python = folder / "venv/bin/python"
    if not python.exists():
        pytest.skip(f"no environment {name} in POLAR_RAY_TRAINERS")
    prepare(python)
    paths = [ROOT, *(folder / source for source in SOURCES.get(name, []))]
    with dying(live) as dies, silent() as says_nothing:
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "POLAR_RAY_"))},
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "POLAR_TEST_LIVE": live,
            "POLAR_TEST_DYING": dies,
            "POLAR_TEST_SILENT": says_nothing,
        }
        command = [str(python), str(PROGRAMS / f"run_{name}.py")]
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=500
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return [json.loads(line.removeprefix("REPORT ")) for line in lines]


def of(reports: list[dict[str, Any]], case: str) -> list[dict[str, Any]]:
    found = [report for report in reports if report["case"] == case]
    assert found, f"no report of {case}"
    return found


@pytest.mark.parametrize("name", TRAINERS)
def test_in_its_own_code(
    name: str, trainers: Path, live: str, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    reports = run(name, trainers, live, tmp_path)
    for report in (*of(reports, "group"), *of(reports, "before")):
        assert report["right"], report
    for report in [one for one in reports if one["case"] == "trap"]:
        assert report["right"], report
    for case, reasons in (
        ("dying", ("cannot reach", "lost")),
        ("deadline", ("did not answer within", "no answer within")),
    ):
        for report in of(reports, case):
            assert report["raised"] is not None, report
            assert any(reason in report["raised"] for reason in reasons), report["raised"]
    figure(f"advantages {rounded(of(reports, 'advantages')[0]['of'])}")
    if (other := STOPS.get(name)) is not None:
        for report in of(reports, other):
            checks = {key: value for key, value in report.items() if isinstance(value, bool)}
            assert checks, report
            assert all(checks.values()), report
            figure(f"1 of 4 rows fails: {other}; advantages {rounded(report['of'])}")
    else:
        for report in of(reports, "unscored"):
            assert report["raised"] is not None, report
            assert "null_field" in report["raised"], report["raised"]
        figure("1 of 4 rows fails: stops with the row's reason")


def rounded(values: list[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 3) for value in values]
