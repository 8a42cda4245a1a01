"""`cluster/ray/on-premises.yaml`: what `ray up` makes of it, and how its nodes start."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config
from ray.scripts.scripts import start

FILE = Path(__file__).parents[2] / "cluster" / "ray" / "on-premises.yaml"
SCHEMA = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"

Config = dict[str, Any]


def prepared(values: Config) -> Config:
    """The config as `ray up` completes it before it checks it."""
    config: Config = prepare_config(copy.deepcopy(values))
    jsonschema.validate(config, json.loads(SCHEMA.read_text("utf-8")))
    return config


def starts(config: Config, which: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Environment and options of a node's one `ray start`, read by that command itself."""
    [line] = [line for line in config[f"{which}_start_ray_commands"] if " start " in line]
    words = shlex.split(line.rpartition(";")[2].replace("$RAY_HEAD_IP", "10.0.0.10"))
    env = dict(word.split("=", 1) for word in words if re.match(r"RAY_\w+=", word))
    words = [word for word in words if word.partition("=")[0] not in env]
    assert words[:2] == ["~/polar/bin/ray", "start"], words
    return env, dict(start.make_context("start", words[2:]).params)


def check(values: Config) -> None:
    """Raises for a cluster that is not what the README says."""
    config = prepared(values)
    nodes = config["provider"]["worker_ips"]
    assert config["head_node_type"] == "local.cluster.node"
    assert config["available_node_types"]["local.cluster.node"]["min_workers"] == len(nodes)
    assert config["file_mounts"]["~/.ray/auth_token"]
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    _check_head(*starts(config, "head"))
    _check_worker(*starts(config, "worker"))


def _check_head(env: dict[str, str], options: dict[str, Any]) -> None:
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["RAY_gcs_storage"] == "rocksdb"
    assert env["RAY_gcs_storage_path"].startswith(("/", "$HOME/"))
    assert options["head"]
    assert (options["num_cpus"], options["num_gpus"]) == (0, 0)
    assert options["dashboard_host"] == "127.0.0.1"
    assert options["object_store_memory"] >= 1e9


def _check_worker(env: dict[str, str], options: dict[str, Any]) -> None:
    assert env["RAY_AUTH_MODE"] == "token"
    assert not options["head"]
    assert options["num_cpus"] is None, "a node knows its cores"
    assert options["object_store_memory"] >= 1e9
    # Beside Ray's logs, `/tmp` may be memory.
    assert not options["object_spilling_directory"].startswith("/tmp")


def read() -> Config:
    values: Config = yaml.safe_load(FILE.read_text("utf-8"))
    return values


def test_the_cluster_is_what_it_says() -> None:
    check(read())


def test_a_node_gets_the_wheel_that_was_built_last_whatever_it_has(tmp_path: Path) -> None:
    pip, dist = tmp_path / "polar" / "bin" / "pip", tmp_path / "polar-dist"
    pip.parent.mkdir(parents=True)
    dist.mkdir()
    pip.write_text('#!/bin/sh\necho "$@"\n', "utf-8")
    pip.chmod(0o755)
    wheels = [dist / f"polar_ray-0.{n}.0-py3-none-any.whl" for n in (10, 2, 9)]
    for at, wheel in enumerate(wheels):
        wheel.touch()
        os.utime(wheel, (at, at))
    command = read()["setup_commands"][-1]
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", command], env=env, capture_output=True, text=True, check=True
    )
    whole, again = done.stdout.splitlines()
    assert whole.split()[-1] == f"{wheels[-1]}[serve]"
    assert again.split()[-1] == str(wheels[-1])
    # The same version is installed already, perhaps; what it needs is not to be fetched anew.
    assert {"--force-reinstall", "--no-deps"} <= set(again.split())


def replace(key: str, old: str, new: str) -> Callable[[Config], None]:
    def change(values: Config) -> None:
        before = list(values[key])
        values[key] = [line.replace(old, new) for line in before]
        assert values[key] != before

    return change


MISTAKES: dict[str, Callable[[Config], Any]] = {
    "a key that Ray does not know": lambda values: values.update(workers=2),
    "no token on the nodes": lambda values: values["file_mounts"].pop("~/.ray/auth_token"),
    "a token for all to read": lambda values: values["setup_commands"].pop(0),
    "a head without tokens": replace("head_start_ray_commands", "RAY_AUTH_MODE=token", ""),
    "workers without tokens": replace("worker_start_ray_commands", "RAY_AUTH_MODE=token", ""),
    "work on the head": replace("head_start_ray_commands", "--num-cpus=0", ""),
    "a head that forgets": replace("head_start_ray_commands", "RAY_gcs_storage=rocksdb", ""),
    "a dashboard for everybody": replace("head_start_ray_commands", "127.0.0.1", "0.0.0.0"),
    "an option that is none": replace("worker_start_ray_commands", "--object-spill", "--spill"),
    "spills to memory": replace("worker_start_ray_commands", "/var/tmp", "/tmp"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    values = read()
    MISTAKES[mistake](values)
    # What Ray's own readers raise is of many kinds.
    with pytest.raises(Exception):  # noqa: B017, PT011
        check(values)
