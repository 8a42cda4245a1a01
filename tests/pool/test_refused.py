"""A deploy that Serve refuses leaves the pool, and the ways to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from deploying import deploy
from sample_records import GROUPS

from polar_ray.client import connect
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.pool.local import pool

pytestmark = pytest.mark.ray

NAME = "kept"


def test_a_pool_is_found_after_a_refused_deploy(cluster: None, tiny_dir: Path) -> None:
    """Serve forgets what an application begins with as soon as another deploy of it comes in."""
    from ray import serve

    config = PoolConfig(model=str(tiny_dir), num_cpus=0.1, engine=StubEngineConfig())

    with pool(config, name=NAME, route_prefix="/kept"):
        expected = connect(app_name=NAME).score(GROUPS)
        deploy(NAME, {**config.model_dump(mode="json"), "num_replicsa": 1})
        while serve.status().applications[NAME].status != "DEPLOY_FAILED":
            assert connect(app_name=NAME).score(GROUPS) == expected
        assert connect(app_name=NAME).score(GROUPS) == expected
