"""The base install, as pip makes it, is a client: it has neither torch nor ray, and scores."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from sample_records import GROUPS
from scorer_as_router import ScorerAsRouter

from polar_ray.pool.http.port import free_port
from polar_ray.pool.http.routes import build_http
from polar_ray.scorer import Scorer

pytestmark = pytest.mark.slow  # and it asks pip's index

ROOT = Path(__file__).parents[1]
CLIENT = """
import importlib.util, json, sys
from polar_ray import connect
lean = [name for name in ('torch', 'ray', 'fastapi', 'scipy') if importlib.util.find_spec(name)]
with connect(address=sys.argv[1]) as client:
    print(json.dumps({'heavy': lean, 'scores': client.score(json.load(sys.stdin))}))
"""


@pytest.fixture
def url(scorer: Scorer) -> Iterator[str]:
    router = ScorerAsRouter(scorer)
    port = free_port()
    app = build_http(lambda: router)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_a_fresh_base_install_scores_over_http(url: str, scorer: Scorer, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", ROOT], check=True, timeout=280)
    records = json.dumps(GROUPS)
    command = [python, "-c", CLIENT, url]
    done = subprocess.run(
        command, input=records, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["heavy"] == []
    assert answer["scores"] == scorer.score(GROUPS)["score"].to_pylist()
