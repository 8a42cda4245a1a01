"""What a change of settings starts anew: Serve replaces processes whose arguments have changed."""

from __future__ import annotations

from typing import Any

import pytest

from polar_ray.config import AdmissionConfig, PoolConfig, StubEngineConfig
from polar_ray.pool.app import app


def parts(**settings: Any) -> tuple[Any, Any, Any]:
    """The router's and the replicas' arguments, and the replicas' user_config."""
    router = app(PoolConfig(**settings))._bound_deployment
    replica = router.init_args[1]._bound_deployment
    return router.init_args[0], replica.init_args, replica._deployment_config.user_config


@pytest.mark.parametrize(
    ("change", "routers", "replicas", "in_place"),
    [
        ({}, False, False, False),
        ({"model": "/models/b"}, False, False, True),
        ({"engine": StubEngineConfig(salt=1)}, False, True, False),
        ({"admission": AdmissionConfig(max_calls=5)}, True, False, False),
    ],
)
def test_a_change_touches_only_whom_it_concerns(
    change: dict[str, Any], routers: bool, replicas: bool, in_place: bool
) -> None:
    before = parts(model="/models/a")
    after = parts(**{"model": "/models/a", **change})
    changed = [one != two for one, two in zip(before, after, strict=True)]
    assert changed == [routers, replicas, in_place]
    assert before[2] == {"model": "/models/a"}
