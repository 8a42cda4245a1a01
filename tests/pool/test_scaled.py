"""A pool that Serve may scale, on a cluster: its policy is Serve's, and updates work as before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deploying import deploy
from processes import replica_pids

from polar_ray.client import connect
from polar_ray.config import PoolConfig
from polar_ray.records import provenance

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

NAME = "scalable"
RECORD = {"prompt": "1 + 1 =", "reference": "2", "output": "2"}


def details() -> dict[str, Any]:
    """What Serve says of the replicas."""
    from ray.serve.context import _get_global_client

    apps = _get_global_client().get_serve_details()["applications"]
    found: dict[str, Any] = apps[NAME]["deployments"].get("Replica", {})
    return found


@pytest.fixture
def scalable(cluster: None, tiny_dir: Path) -> Iterator[PoolConfig]:
    """A pool of no replica, as `serve deploy` starts it."""
    from ray import serve

    config = PoolConfig(
        model=str(tiny_dir),
        min_replicas=0,
        max_replicas=2,
        num_cpus=0.1,
        engine={"type": "stub"},
    )
    deploy(NAME, config)
    try:
        while serve.status().applications[NAME].status != "RUNNING":
            time.sleep(0.1)
        yield config
    finally:
        serve.delete(NAME)


def test_a_call_starts_a_replica_which_is_updated_in_its_process(
    scalable: PoolConfig, tiny_dir: Path, other_dir: Path
) -> None:
    scaling = details()["deployment_config"]["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (0, 2)
    assert scaling["policy"]["policy_function"] == "polar_ray.pool.autoscaling.Policy"
    assert replica_pids(NAME) == []

    client = connect(app_name=NAME)
    [score] = client.score([RECORD], timeout_s=120)
    [before] = replica_pids(NAME)
    assert details()["target_num_replicas"] == 1

    deploy(NAME, scalable, user_config={"model": str(other_dir)})
    while (
        provenance(result := client.score_table([RECORD]))["model"] != f"stub of {other_dir.name}"
    ):
        time.sleep(0.1)
    assert result["score"][0].as_py() != score
    assert replica_pids(NAME) == [before]
    assert details()["target_num_replicas"] == 1
