"""The model is the one setting of replicas that Serve may change in their running processes."""

from __future__ import annotations

from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.pool.app import app


def test_the_model_is_user_config_and_no_argument() -> None:
    engine = StubEngineConfig(salt=1)
    router = app(PoolConfig(model="/models/a", engine=engine))._bound_deployment
    replica = router.init_args[1]._bound_deployment
    assert replica._deployment_config.user_config == {"model": "/models/a"}
    [scorer] = replica.init_args
    assert (scorer.model, scorer.engine) == (None, engine)
