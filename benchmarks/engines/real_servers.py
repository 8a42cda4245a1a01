"""Real sglang and vllm servers, each in its own environment, for benchmarks and tests.

An environment is a directory with `bin/python`, made as polar_ray/engine/README.md says.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import psutil

Kind = Literal["sglang", "vllm"]

START_S = 300.0
POLL_S = 0.5

ENVIRONMENTS: dict[Kind, dict[str, str]] = {
    "sglang": {"SGLANG_USE_CPU_ENGINE": "1"},
    "vllm": {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
    },
}


@dataclass(slots=True)
class RealServer:
    """A server and its processes."""

    kind: Kind
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    started_s: float
    """How long it took to answer."""

    def signal(self, number: signal.Signals) -> None:
        """To all its processes."""
        os.killpg(self.process.pid, number)

    @property
    def memory_bytes(self) -> int:
        """What its processes hold for themselves."""
        me = psutil.Process(self.process.pid)
        return sum(one.memory_full_info().uss for one in [me, *me.children(recursive=True)])


def command(
    kind: Kind, environment: Path, model_dir: Path, port: int, window: int, more: Sequence[str]
) -> list[str]:
    """What starts a server on a CPU in float32."""
    python = str(environment / "bin" / "python")
    if kind == "sglang":
        return [
            *[python, "-m", "sglang.launch_server", "--model-path", str(model_dir)],
            *["--device", "cpu", "--attention-backend", "torch_native", "--dtype", "float32"],
            *["--is-embedding", "--trust-remote-code"],
            *["--context-length", str(window), "--max-total-tokens", str(4 * window)],
            *["--host", "127.0.0.1", "--port", str(port), *more],
        ]
    return [
        *[python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir)],
        *["--runner", "pooling", "--dtype", "float32", "--trust-remote-code", "--enforce-eager"],
        *["--max-model-len", str(window), "--host", "127.0.0.1", "--port", str(port), *more],
    ]


@contextmanager
def real_server(
    kind: Kind,
    environment: Path,
    model_dir: Path,
    folder: Path,
    *,
    window: int = 2048,
    threads: int = 1,
    reads_text: bool = False,
    more: Sequence[str] = (),
) -> Iterator[RealServer]:
    """A server that answers, for as long as the block; its log is kept in `folder`. One that
    `reads_text` has a tokenizer, too."""
    if kind == "sglang" and not reads_text:
        more = ["--skip-tokenizer-init", *more]
    port = free_port()
    log = folder / f"{kind}-{port}.log"
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(kind, environment, model_dir, port, window, more),
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
                **ENVIRONMENTS[kind],
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": str(threads),
            },
            stdout=file,
            stderr=file,
            start_new_session=True,
            cwd=folder,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_it_answers(url, process, log)
        yield RealServer(kind, url, process, log, time.monotonic() - began)
    finally:
        _end(process)


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{url} ended with {process.returncode}: {tail(log)}")
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(POLL_S)
    raise RuntimeError(f"{url} does not answer: {tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a server with all its processes, stopped ones too."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: Path, most: int = 3000) -> str:
    """The end of a log."""
    return log.read_text(encoding="utf-8", errors="replace")[-most:]


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
