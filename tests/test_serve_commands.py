"""The commands of `polar_ray/pool/README.md` for a cluster, as they stand there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import yaml
from processes import MARK, kill, marked
from sample_records import GROUPS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

README = (Path(__file__).parents[1] / "polar_ray" / "pool" / "README.md").read_text("utf-8")
PORTS = (6379, 8265, 8000)
"""Of Ray, of its dashboard, and of Serve, where nobody names others."""

Run = Callable[..., subprocess.CompletedProcess[str]]


def block(language: str, holds: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(text for text in blocks if holds in text)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs a script in a shell of a user who has no token yet; nothing of it stays."""
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"somebody listens on port {port}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    mark = uuid4().hex
    env = {**os.environ, "HOME": str(tmp_path), "PATH": path, MARK: mark}
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
        env.pop(name, None)

    def script(text: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-ec", text],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=check,
        )

    yield script
    kill(*marked(mark))


def test_the_commands_deploy_a_pool_and_tell_its_state(
    run: Run, tmp_path: Path, tiny_dir: Path
) -> None:
    config = yaml.safe_load(block("yaml", "POLAR-7B, num_replicas: 4"))
    config["applications"][0]["args"] = {
        "model": str(tiny_dir), "num_cpus": 0.1, "engine": {"type": "stub"}
    }  # fmt: skip
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(config))
    said = run(block("bash", "serve deploy pool.yaml"))
    assert "polar:" in said.stdout
    while "status: RUNNING\n    message: ''" not in (now := run(TOLD).stdout):
        assert "DEPLOY_FAILED" not in now
        time.sleep(0.5)
    answer = httpx.post("http://127.0.0.1:8000/score", json={"records": GROUPS})
    assert answer.status_code == 200
    # What our own errors and docs say of those who forget it.
    untold = run("serve status", check=False)
    assert untold.returncode != 0
    assert "AuthenticationError" in untold.stderr


TOLD = "RAY_AUTH_MODE=token serve status"
