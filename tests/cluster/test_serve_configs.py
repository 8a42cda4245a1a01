"""The files of `cluster/serve`: each is what its name says, and is read as strictly as can be."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.serve_config import Pool, parse, read

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "serve"
FILES = sorted(FOLDER.glob("*.yaml"))

GPUS = {
    "autoscaling-1-16": 16,
    "laptop": 0,
    "node-8xh200": 8,
    "node-8xh200-sglang": 8,
    "remote-servers": 0,
    "two-nodes-tensor-parallel": 16,
}
"""How many GPUs each pool takes at the most."""


def only(name: str) -> Pool:
    [pool] = read(FOLDER / f"{name}.yaml")
    return pool


def test_each_file_has_its_row_here() -> None:
    assert {path.stem for path in FILES} == set(GPUS)


@pytest.mark.parametrize("name", GPUS)
def test_a_config_fits_the_hardware_of_its_name(name: str) -> None:
    pool = only(name)
    assert pool.config.most_replicas * pool.config.num_gpus == GPUS[name]
    assert pool.name == "polar"


@pytest.mark.parametrize("name", GPUS)
def test_a_config_says_how_it_is_used(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    assert f"serve deploy cluster/serve/{name}.yaml" in text


def test_a_replica_has_as_many_gpus_as_its_engine_uses() -> None:
    for path in FILES:
        [pool] = read(path)
        width = getattr(pool.config.engine, "tensor_parallel_size", 1)
        if pool.config.num_gpus:
            assert pool.config.num_gpus == width, path.name


def test_no_router_runs_on_a_head_without_cpus() -> None:
    """On a laptop every core scores; elsewhere the head has none (`cluster/ray`)."""
    for path in FILES:
        [pool] = read(path)
        assert (pool.config.router_num_cpus > 0) == (path.stem in NEEDS_WORKERS), path.name


NEEDS_WORKERS = set(GPUS) - {"laptop"}


def test_models_are_where_they_can_be_exchanged() -> None:
    for path in FILES:
        [pool] = read(path)
        assert pool.config.model is None, f"{path.name}: a model in args starts new processes"


def mutated(change: str) -> dict[str, Any]:
    values: dict[str, Any] = copy.deepcopy(
        yaml.safe_load((FOLDER / "node-8xh200.yaml").read_text())
    )
    [application] = values["applications"]
    match change:
        case "renamed setting":
            application["args"]["replicas"] = application["args"].pop("num_replicas")
        case "renamed setting of the engine":
            application["args"]["engine"]["precision"] = "bfloat16"
        case "renamed setting of admission":
            application["args"]["admission"]["max_call"] = 1
        case "setting at the wrong place":
            application["num_replicas"] = 8
        case "setting behind the pool's back":
            application["deployments"][0]["max_ongoing_requests"] = 1
        case "another deployment":
            application["deployments"][0]["name"] = "Scorer"
        case "setting that cannot be changed in place":
            application["deployments"][0]["user_config"]["max_tokens"] = 1024
        case "another application":
            application["import_path"] = "polar_ray.pool:app"
        case "open to the network":
            values["http_options"]["host"] = "0.0.0.0"
        case "no host":
            values["http_options"].pop("host")
        case "key of Serve's first format":
            values["import_path"] = "polar_ray:app"
        case _:
            raise AssertionError(change)
    return values


@pytest.mark.parametrize(
    "change",
    [
        "renamed setting",
        "renamed setting of the engine",
        "renamed setting of admission",
        "setting at the wrong place",
        "setting behind the pool's back",
        "another deployment",
        "setting that cannot be changed in place",
        "another application",
        "open to the network",
        "no host",
        "key of Serve's first format",
    ],
)
def test_a_mistake_is_found(change: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        parse(mutated(change))
