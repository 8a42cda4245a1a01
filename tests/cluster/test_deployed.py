"""Configs that need no GPU, deployed: by Serve's own reader on the test's cluster, and the laptop's
by the commands of `cluster/README.md`, as they stand there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import yaml
from model_server import Server, serving
from processes import MARK, kill, marked
from sample_records import GROUPS

from polar_ray.client import connect
from polar_ray.config import NativeEngineConfig
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.questions import alone
from polar_ray.pool.app import wait_until_running
from polar_ray.records import Record
from polar_ray.scorer import Scorer

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "serve"
RECORDS = [Record(**values) for values in GROUPS]


def deploy(path: Path, name: str, **changes: Any) -> None:
    """Deploys a file's application under another name; `changes` go into its `args`."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    values = yaml.safe_load(path.read_text("utf-8"))
    [application] = values["applications"]
    application |= {"name": name, "route_prefix": f"/{name}"}
    application["args"] |= changes
    schema = ServeDeploySchema(applications=[application])
    _get_global_client().deploy_apps(schema, _blocking=False)
    wait_until_running(name, 240)


@pytest.mark.ray
def test_the_laptops_file_is_a_pool_with_the_scorers_scores(cluster: None) -> None:
    from ray import serve

    deploy(FOLDER / "laptop.yaml", "laptop", num_cpus=0.5)
    try:
        scores = connect(app_name="laptop").score(RECORDS, timeout_s=240)
    finally:
        serve.delete("laptop")
    assert np.allclose(scores, Scorer().score(RECORDS)["score"], atol=1e-5)


@pytest.mark.ray
def test_the_pool_before_servers_is_one_with_their_scores(
    cluster: None, tmp_path: Path, tiny_dir: Path, scorer: Scorer
) -> None:
    from ray import serve

    (tmp_path / "token").write_text("secret\n")
    truth = alone(NativeEngine(NativeEngineConfig(), tiny_dir))
    servers = [Server("vllm", tiny_dir, truth) for _ in range(2)]
    path = tmp_path / "remote.yaml"
    with serving(servers[0]) as one, serving(servers[1]) as two:
        text = (FOLDER / "remote-servers.yaml").read_text("utf-8")
        for old, new in (
            ("http://10.0.0.21:8000", one),
            ("http://10.0.0.22:8000", two),
            ("/etc/polar/servers/token", str(tmp_path / "token")),
            ("/models/POLAR-7B", str(tiny_dir)),
        ):
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
        deploy(path, "remote", num_cpus=0.1, router_num_cpus=0.1, num_replicas=1, num_routers=1)
        try:
            scores = connect(app_name="remote").score(RECORDS, timeout_s=240)
        finally:
            serve.delete("remote")
    assert np.allclose(scores, scorer.score(RECORDS)["score"], atol=1e-4)


@pytest.mark.slow
def test_a_new_user_has_a_pool_by_the_readme_alone(tmp_path: Path) -> None:
    for port in (6379, 8265, 8000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"somebody listens on port {port}")
    readme = (ROOT / "cluster" / "README.md").read_text("utf-8")
    [section] = re.findall(r"\n## A laptop\n(.*?)\n## ", readme, re.DOTALL)
    [script] = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    # It would end every Ray of this machine; what was started here ends by its mark.
    script = script.replace("\nray stop\n", "\n")
    mark = uuid4().hex
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "HOME": str(tmp_path), "PATH": path, MARK: mark}
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
        env.pop(name, None)
    try:
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        kill(*marked(mark))
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"score":' in done.stdout
    assert (tmp_path / ".ray" / "auth_token").is_file()
