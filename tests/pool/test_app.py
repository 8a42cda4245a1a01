"""The model is the one setting of replicas that Serve may change in their running processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from polar_ray.config import NativeEngineConfig, PoolConfig, StubEngineConfig
from polar_ray.errors import ConfigError
from polar_ray.pool.app import app


def test_the_model_is_user_config_and_no_argument() -> None:
    engine = StubEngineConfig(salt=1)
    router = app(PoolConfig(model="/models/a", engine=engine))._bound_deployment
    replica = router.init_args[1]._bound_deployment
    assert replica._deployment_config.user_config == {"model": "/models/a"}
    [scorer] = replica.init_args
    assert (scorer.model, scorer.engine) == (None, engine)


def test_a_model_that_cannot_be_loaded_is_no_application(tiny_dir: Path, tmp_path: Path) -> None:
    """`serve deploy` builds the application before it touches what runs."""
    app(PoolConfig(model=str(tiny_dir)))
    with pytest.raises(ConfigError, match="is not a directory"):
        app(PoolConfig(model=str(tmp_path / "nothing")))
    bad = shutil.copytree(tiny_dir, tmp_path / "bad")
    path = bad / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="damaged"):
        app(PoolConfig(model=str(bad)))
    with pytest.raises(ConfigError, match="does not divide"):
        app(PoolConfig(model=str(tiny_dir), engine=NativeEngineConfig(tensor_parallel_size=3)))


def test_a_model_that_cannot_be_seen_from_here_is_the_replicas_to_judge(tmp_path: Path) -> None:
    app(PoolConfig(model=str(tmp_path / "mounted" / "elsewhere")))
    app(PoolConfig(model="relative/to/a/worker"))
