"""What Ray would find out about a replica's environment on a node, or never, is said before."""

from __future__ import annotations

import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

from polar_ray.client import connect
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.errors import ConfigError
from polar_ray.pool.app import app, start
from polar_ray.pool.local import pool
from polar_ray.pool.runtime_env import check_runtime_env, why_not_made
from polar_ray.records import Record

NAME = "elsewhere"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"pip": ["sglang==0.5.23"]},
        {"uv": {"packages": ["sglang==0.5.23"]}},
        {"py_executable": "/envs/sglang/bin/python", "env_vars": {"OMP_NUM_THREADS": "4"}},
        {"image_uri": "registry/polar_ray:sglang"},
        {"working_dir": "s3://bucket/code.zip", "config": {"setup_timeout_seconds": 1200}},
    ],
)
def test_what_ray_takes_goes_to_the_replicas_alone(given: dict[str, Any]) -> None:
    router = app(PoolConfig(engine=StubEngineConfig(), runtime_env=given))._bound_deployment
    replica = router.init_args[1]._bound_deployment
    assert replica.ray_actor_options["runtime_env"] == given
    assert set(router.ray_actor_options["runtime_env"]) == {"env_vars"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pipp": ["sglang"]}, r"runtime_env.pipp=\['sglang'\]: .* did you mean pip\? there are"),
        ({"python": "/x"}, "runtime_env.python='/x': Ray knows no such field; there are conda"),
        ({"py_executable": 3}, "runtime_env.py_executable=3 names nothing"),
        ({"pip": ["a"], "uv": ["b"]}, "runtime_env: .* cannot be specified at the same time"),
        ({"env_vars": {"A": 1}}, "runtime_env: .*must be of type Dict.str, str."),
        ({"working_dir": "."}, "runtime_env.working_dir='.' is not to be had on all nodes"),
        ({"working_dir": "file:///x.zip"}, "is not to be had on all nodes"),
        ({"py_modules": ["s3://a/b.zip", "./c"]}, "runtime_env.py_modules='./c' is not to be had"),
        ({"py_executable": " "}, "runtime_env.py_executable=' ' names nothing"),
        ({"image_uri": 5}, "runtime_env.image_uri=5 names nothing"),
        ({"env_vars": {"A": "\0"}}, "runtime_env.env_vars has a name or value that no process"),
        ({"env_vars": {"A": "\ud800"}}, "runtime_env.env_vars has a name or value that no process"),
        ({"env_vars": {"A=B": "x"}}, "a variable's name is empty or has an equals sign"),
        ({"pip": ["\0"]}, "runtime_env.pip has a name or value that no process"),
        ({"config": {"timeout": 1}}, "runtime_env.config: Ray knows no timeout; there are eager"),
        ({"env_vars": {"RAY_SERVE_USE_GRPC_BY_DEFAULT": "1"}}, "RAY_SERVE_USE_GRPC_BY_DEFAULT is"),
    ],
)
def test_what_ray_would_not_take(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_runtime_env(given)
    with pytest.raises(ConfigError, match=said):
        app({"engine.type": "stub", "runtime_env": given})


def test_a_field_that_is_no_text() -> None:
    with pytest.raises(ConfigError, match="a key that is no text"):
        check_runtime_env({1: 2})  # type: ignore[dict-item]


def test_no_password_is_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        check_runtime_env({"env_vars": {"TOKEN": "secret", "A": 1}})
    assert "secret" not in str(caught.value)


PIP_FAILED = """\
The deployment failed to start 3 times in a row. See controller logs for details. Error:
Exception when allocating Replica(id='8m7', deployment='Replica', app='x'): Failed to set up \
runtime environment.
Could not create the actor because its associated runtime env failed to be created.
[Node 127.0.0.1] Traceback (most recent call last):
  File "runtime_env_agent.py", line 561, in _create_runtime_env_with_retry
    runtime_env_context = await asyncio.wait_for(
ray._private.runtime_env.utils.SubprocessCalledProcessError: Run cmd[12] failed with the following \
details.
Last 50 lines of stdout:
    Looking in indexes: https://pypi.org/simple
    WARNING: Retrying (Retry(total=4)) after connection broken
    ERROR: Could not find a version that satisfies the requirement nothing (from versions: none)
    ERROR: No matching distribution found for nothing
"""


def test_the_reason_is_found_in_what_serve_says() -> None:
    assert why_not_made(PIP_FAILED) == (
        "Failed to set up runtime environment: ERROR: Could not find a version that satisfies the "
        "requirement nothing (from versions: none) ERROR: No matching distribution found for "
        "nothing"
    )
    without = PIP_FAILED[: PIP_FAILED.index("Last 50")]
    assert str(why_not_made(without)).endswith(
        "Error: Run cmd[12] failed with the following details."
    )
    assert why_not_made("RuntimeError: CUDA out of memory") is None


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own that sees this one's libraries, and says who runs in it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "theirs.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{ROOT}\n")
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'SAID' in os.environ:\n"
        "    with open(os.environ['SAID'], 'a') as file:\n"
        "        file.write(sys.prefix + '\\n')\n"
    )
    return folder


@pytest.mark.ray
def test_replicas_run_in_it(cluster: None, elsewhere: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    config = PoolConfig(
        engine=StubEngineConfig(),
        num_cpus=0.1,
        runtime_env={
            "py_executable": str(elsewhere / "bin" / Path(sys.executable).name),
            "env_vars": {"SAID": str(said)},
        },
    )
    with pool(config, name=NAME, route_prefix=f"/{NAME}"):
        client = connect(app_name=NAME)
        assert client.score([Record(prompt="a", reference="b", output="c")])
    assert set(said.read_text().split()) == {str(elsewhere)}


def test_a_pool_that_goes_slowly_hides_no_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from polar_ray.errors import PoolError
    from polar_ray.pool import app as module

    def never(*arguments: Any, **options: Any) -> None:
        raise TimeoutError("not deleted after 60s")

    def fails(name: str, timeout_s: float) -> None:
        raise PoolError("its replicas do not start")

    monkeypatch.setattr(module.serve, "run_many", lambda *targets, **options: None)
    monkeypatch.setattr(module.serve, "delete", never)
    monkeypatch.setattr(module, "wait_until_running", fails)
    monkeypatch.setattr(module, "_check_resources", lambda config: None)
    monkeypatch.setattr(module, "_check_name", lambda name: None)
    with pytest.raises(PoolError, match="its replicas do not start"):
        start(PoolConfig(engine=StubEngineConfig()))
    assert "pool 'polar' is not deleted yet" in caplog.text
