"""What this project uses of Ray beyond its documented interface, in one table.

Ray may change these between two minor versions, so that the supported versions have an upper bound
and are tried one by one. Importing this module checks the version and every name, and raises a
`ConfigError` that names what is missing, where a call would fail with an `AttributeError` later.

`pool/ingress.py` alone uses names of `USED` itself, because Serve ships that file to processes that
do not have this project; a test sees to it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import ray
from ray.util import list_named_actors

from polar_ray.errors import ConfigError

SUPPORTED = "ray[serve]>=2.60,<2.61"
"""Tested with 2.60.0. Before 2.60 a request router that chooses by what a call asks for left calls
behind: a routing task ended with whatever call it had found a replica for, and its own stayed."""

OLDEST = (2, 60)

USED: Mapping[str, str] = {
    "ray._private.services:get_ray_address_from_environment": "see if ray.init joins a cluster",
    "ray.runtime_env:RuntimeEnv.known_fields": "refuse a misspelt runtime environment",
    "ray.runtime_env:RuntimeEnvConfig.known_fields": "refuse a misspelt runtime environment",
    "ray.serve.context:_get_global_client": "find where Serve's HTTP proxies listen",
    "ray.serve.handle:DeploymentHandle.options:_by_reference": "send shards by the object store",
    "ray.serve._private.common:RequestMetadata._by_reference": "know the calls that go by Ray",
    "ray.serve._private.common:ReplicaQueueLengthInfo": "take a call as accepted",
    "ray.serve._private.replica_result:ActorReplicaResult": "give up an answer that cannot come",
    "ray.serve._private.replica_result:ActorReplicaResult.add_done_callback": "hold its answer",
    "ray.serve._private.replica:ReplicaActor.get_num_ongoing_requests": "ask for a heartbeat",
    "ray.serve.request_router:RunningReplica._actor_handle": "ask for a heartbeat",
    "ray.serve.request_router:RunningReplica.try_send_request": "call plainly, not by a stream",
    "ray.serve.request_router:RequestRouter.create_replica_wrapper": "call plainly",
    "ray.serve.request_router:RequestRouter.replica_queue_len_cache": "count calls without asking",
    "ray.serve.request_router:RequestRouter._deployment_id": "say which pool was deleted",
    "ray.serve.request_router:RequestRouter._pending_requests_to_fulfill": "end waiting calls",
}
"""`module:name.name`, or `module:name.function:parameter`, and what it is needed to do."""


CONTROLLER = {"namespace": "serve", "name": "SERVE_CONTROLLER_ACTOR"}
"""Serve runs where this actor is."""


def check(used: Mapping[str, str] = USED) -> None:
    """Raises `ConfigError` where the installed Ray is too old, or lacks any of these names."""
    way_out = f"pip install '{SUPPORTED}', or reach the pool by connect(address=...)"
    if tuple(int(part) for part in ray.__version__.split(".")[:2]) < OLDEST:
        raise ConfigError(f"Ray {ray.__version__} is too old for a pool: {way_out}")
    for path, purpose in used.items():
        if not _exists(path):
            lacks = f"Ray {ray.__version__} has no {path}, which polar_ray needs to {purpose}"
            raise ConfigError(f"{lacks}: {way_out}")


def _exists(path: str) -> bool:
    module, names, *parameter = path.split(":")
    try:
        *owners, name = names.split(".")
        owner: Any = import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        if parameter:
            return parameter[0] in inspect.signature(getattr(owner, name)).parameters
    except (ImportError, AttributeError):
        return False
    # Objects get most of their attributes when they are made.
    return (
        hasattr(owner, name) or name in getattr(owner.__init__, "__code__", check.__code__).co_names
    )


check()

from ray._private.services import get_ray_address_from_environment  # noqa: E402
from ray.serve._private.common import ReplicaQueueLengthInfo  # noqa: E402
from ray.serve._private.replica_result import ActorReplicaResult  # noqa: E402
from ray.serve.config import ProxyLocation  # noqa: E402
from ray.serve.context import _get_global_client  # noqa: E402
from ray.serve.handle import DeploymentHandle  # noqa: E402

__all__ = [
    "ActorReplicaResult",
    "ReplicaQueueLengthInfo",
    "by_reference",
    "http_address",
    "joins_a_cluster",
    "serve_runs",
]


def by_reference(handle: DeploymentHandle) -> DeploymentHandle:
    """The same handle with arguments in Ray's object store, whatever Serve's default is."""
    return handle.options(_by_reference=True)


def serve_runs() -> bool:
    """Whether this Ray cluster has a Serve. Serve itself is not asked: after `ray.shutdown` it
    takes the next local cluster for the last one, whose jobs have the same numbers."""
    return CONTROLLER in list_named_actors(all_namespaces=True)


def http_address() -> tuple[str, int] | None:
    """Host and port where Serve's HTTP proxies listen; None where Serve does not run, or has none
    (`proxy_location="Disabled"`)."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None or client.http_config.location == ProxyLocation.Disabled:
        return None
    return client.http_config.host, client.http_config.port


def joins_a_cluster() -> bool:
    """Whether this process is in a cluster, or `ray.init()` would join one, and not start one."""
    return ray.is_initialized() or get_ray_address_from_environment(None, None) not in (
        None,
        "local",
    )
