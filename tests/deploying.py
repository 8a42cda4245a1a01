"""What `serve deploy` does with a file, from a test's process."""

from __future__ import annotations

from typing import Any

from polar_ray.config import PoolConfig


def deploy(
    name: str, args: PoolConfig | dict[str, Any], *, blocking: bool = False, **replica: Any
) -> None:
    """Deploys `polar_ray:app` with these settings under `/NAME`, and with `replica` for its
    deployment of that name. Returns at once unless it is `blocking`."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    app = {
        "name": name,
        "import_path": "polar_ray:app",
        "route_prefix": f"/{name}",
        "args": args.model_dump(mode="json") if isinstance(args, PoolConfig) else args,
        "deployments": [{"name": "Replica", **replica}],
    }
    schema = ServeDeploySchema(applications=[app])
    _get_global_client().deploy_apps(schema, _blocking=blocking)
