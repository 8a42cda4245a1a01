"""The model is the one setting of replicas that Serve may change in their running processes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from polar_ray.config import NativeEngineConfig, PoolConfig, StubEngineConfig
from polar_ray.errors import ConfigError
from polar_ray.pool.app import _check_resources, app
from polar_ray.pool.local import pool


def test_the_model_is_user_config_and_no_argument() -> None:
    engine = StubEngineConfig(salt=1)
    router = app(PoolConfig(model="/models/a", engine=engine))._bound_deployment
    replica = router.init_args[1]._bound_deployment
    assert replica._deployment_config.user_config == {"model": "/models/a"}
    [scorer] = replica.init_args
    assert (scorer.model, scorer.engine) == (None, engine)


@pytest.mark.parametrize("cpus", [0, 1.5])
def test_routers_reserve_what_is_said(cpus: float) -> None:
    config = PoolConfig(engine=StubEngineConfig(), router_num_cpus=cpus)
    router = app(config)._bound_deployment
    assert router.ray_actor_options["num_cpus"] == cpus


def test_routers_count_where_cpus_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    _check_resources(PoolConfig(num_replicas=4))
    _check_resources(PoolConfig(num_replicas=2, num_routers=2, router_num_cpus=1))
    with pytest.raises(ConfigError, match="need 5, 2 of them for routers, the cluster has 4"):
        _check_resources(PoolConfig(num_replicas=3, num_routers=2, router_num_cpus=1))


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


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs here, and nothing may be started."""
    import ray

    def start(*arguments: Any, **options: Any) -> None:
        raise AssertionError("Ray is started")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    for place in ("app", "ray_internals"):
        monkeypatch.setattr(f"polar_ray.pool.{place}.joins_a_cluster", lambda: False)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("num_replica=2", "Error: num_replica='2': no such setting; did you mean num_replicas?"),
        ("num_replicas=two", "Error: num_replicas='two': "),
        ("model=/no/such/model", "Error: model='/no/such/model' is not a directory"),
    ],
)
def test_serve_run_refuses_in_one_line_before_ray_starts(
    no_ray: None, monkeypatch: pytest.MonkeyPatch, argument: str, message: str
) -> None:
    from ray.serve.scripts import cli

    monkeypatch.setattr(sys, "path", [*sys.path])
    done = CliRunner().invoke(cli, ["run", "polar_ray:app", argument])
    assert done.exit_code == 1
    assert any(line.startswith(message) for line in done.output.splitlines()), done.output
    assert "Traceback" not in done.output


def test_serve_run_leaves_a_model_that_others_may_have_to_them(
    no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.serve.scripts import cli

    monkeypatch.setattr(sys, "path", [*sys.path])
    arguments = ["run", "polar_ray:app", "model=/no/such/model", "--address", "ray://elsewhere"]
    assert str(CliRunner().invoke(cli, arguments).exception) == "Ray is started"


def test_a_local_pool_looks_for_its_model_before_ray_starts(no_ray: None) -> None:
    config = PoolConfig(model="/no/such/model")
    with pytest.raises(ConfigError, match="is not a directory"), pool(config):
        pass


def test_a_model_that_cannot_be_seen_from_here_is_the_replicas_to_judge(tmp_path: Path) -> None:
    app(PoolConfig(model=str(tmp_path / "mounted" / "elsewhere")))
    app(PoolConfig(model="relative/to/a/worker"))


@pytest.mark.parametrize(
    ("settings", "where", "said"),
    [
        ({"http": {"token_file": "/none"}}, {}, "http.token_file='/none': "),
        ({}, {"route_prefix": "judge"}, "--route-prefix 'judge' does not begin with a slash"),
        ({"runtime_env": {"pipp": []}}, {}, "did you mean pip"),
    ],
)
def test_a_mistake_is_told_before_ray_starts(
    no_ray: None, settings: dict[str, Any], where: dict[str, str], said: str
) -> None:
    config = PoolConfig.model_validate({"engine.type": "stub", **settings})
    with pytest.raises(ConfigError, match=said), pool(config, **where):  # type: ignore[arg-type]
        pass
