"""A file for `serve deploy`, read as strictly as can be: by Ray's schema, then by this project's
settings. A key that either of them does not know, or no longer knows, is an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ray.serve.schema import ServeDeploySchema

from polar_ray.config import PoolConfig
from polar_ray.pool.settings import check_binding

TOP = {"applications", "http_options"}
APPLICATION = {"name", "import_path", "route_prefix", "args", "deployments", "runtime_env"}
DEPLOYMENTS = {"Replica": {"name", "user_config", "max_replicas_per_node"}}
"""Keys that these configs have, and no others: what else a deployment of ours may be given is set
by `polar_ray.pool.app`, and would be changed behind its back."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One application of a Serve config."""

    name: str
    config: PoolConfig
    user_config: dict[str, Any]

    @property
    def model(self) -> str | None:
        """The model that its replicas load: `user_config` wins, as Serve merges it."""
        return self.user_config.get("model", self.config.model)


def read(path: Path) -> list[Pool]:
    """The pools of a file."""
    return parse(yaml.safe_load(path.read_text("utf-8")))


def parse(values: dict[str, Any]) -> list[Pool]:
    """The pools of a Serve config. Raises `ValueError` for anything that is not understood."""
    _only(values, TOP, "the file")
    ServeDeploySchema.model_validate(values)
    pools = [_pool(application) for application in values["applications"]]
    host = values["http_options"]["host"]  # Serve's own default is 0.0.0.0
    for pool in pools:
        check_binding(host, has_tokens=pool.config.http.token_file is not None)
    return pools


def _pool(application: dict[str, Any]) -> Pool:
    name = application["name"]
    _only(application, APPLICATION, name)
    if application["import_path"] != "polar_ray:app":
        raise ValueError(f"{name}: {application['import_path']} is none of ours")
    replica = dict(_deployments(application)).get("Replica", {})
    user_config = replica.get("user_config", {})
    # `Replica.reconfigure` takes the model; what else is there would be ignored.
    _only(user_config, {"model"}, f"user_config of {name}")
    return Pool(name, PoolConfig.model_validate(application.get("args", {})), user_config)


def _deployments(application: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for deployment in application.get("deployments", ()):
        _only(deployment, DEPLOYMENTS[deployment["name"]], deployment["name"])
        yield deployment["name"], deployment


def _only(values: dict[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{what} has {', '.join(unknown)}, which nobody reads")
