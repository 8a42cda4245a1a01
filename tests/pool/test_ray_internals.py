"""Ray's private interface: one table, checked when it is imported, and no other use of it."""

from __future__ import annotations

import ast
import base64
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.serve.config import ProxyLocation

from polar_ray.config import PoolConfig
from polar_ray.errors import ConfigError
from polar_ray.pool import ray_internals
from polar_ray.pool.local import pool
from polar_ray.pool.ray_internals import CONTROLLER, OLDEST, USED, check

PACKAGE = Path(ray_internals.__file__).parents[1]
FILES = [
    path for path in sorted(PACKAGE.rglob("*.py")) if "ray" in path.read_text(encoding="utf-8")
]
OWNER = "pool/ray_internals.py"
BY_VALUE = "pool/ingress.py"
"""Serve ships it without the rest of this package, so that it uses names of Ray itself."""

LISTED = {path.replace(":", ".").rpartition(".")[2] for path in USED}


def private_names(tree: ast.AST) -> set[str]:
    """Names with an underscore that a file uses of others: as `x._name` or as `f(_name=...)`."""
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
    return {name for name in used if name.startswith("_") and not name.startswith("__")}


def own_names(tree: ast.AST) -> set[str]:
    """Those that it defines."""
    defined = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    stored = (ast.Attribute, ast.Name)
    for node in ast.walk(tree):
        if isinstance(node, stored) and isinstance(node.ctx, ast.Store):
            defined.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return defined


def imports_ray_privately(tree: ast.AST) -> list[str]:
    """`from ray...._private import`, and imports of names with an underscore from ray."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "ray"]
    return [name for name in found if "._" in name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_file_uses_what_ray_may_change(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    foreign = (private_names(tree) - own_names(tree)) & (LISTED | all_private_of_ray())
    if name == OWNER:
        return
    assert imports_ray_privately(tree) == []
    if name == BY_VALUE:
        assert foreign <= LISTED, "say in USED what it is for"
        assert foreign, "the search finds nothing any more"
    else:
        assert foreign == set()


def all_private_of_ray() -> set[str]:
    """What the objects of Serve that this project handles have beside their documented names."""
    from ray.serve._private.common import RequestMetadata
    from ray.serve._private.replica_result import ActorReplicaResult
    from ray.serve.handle import DeploymentHandle, DeploymentResponse
    from ray.serve.request_router import RequestRouter, RunningReplica

    kinds = (
        RequestMetadata, ActorReplicaResult, DeploymentHandle, DeploymentResponse, RequestRouter,
        RunningReplica,
    )  # fmt: skip
    found: set[str] = set()
    for kind in kinds:
        found |= set(dir(kind)) | set(kind.__init__.__code__.co_names)
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def test_this_ray_has_all_that_is_used() -> None:
    check()


@pytest.mark.parametrize(
    "path",
    [
        "ray.serve._private.no_such_module:Thing",
        "ray.serve.request_router:RequestRouter._no_such_name",
        "ray.serve.handle:DeploymentHandle.options:_no_such_parameter",
        "ray.serve.handle:NoSuchClass.options",
    ],
)
def test_a_name_that_is_missing_is_said_with_rays_version(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check({path: "do this"})
    assert f"Ray {ray.__version__} has no {path}, which polar_ray needs to do" in str(caught.value)
    assert "pip install 'ray[serve]>=" in str(caught.value)


def test_a_ray_that_leaves_calls_behind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "__version__", f"{OLDEST[0]}.{OLDEST[1] - 1}.1")
    with pytest.raises(ConfigError, match=r"Ray 2\.59\.1 is too old for a pool: pip install"):
        check()


def test_a_process_without_this_project_can_route_to_a_pool() -> None:
    """Serve's proxies and controller get the class as bytes."""
    from ray.serve.config import RequestRouterConfig

    from polar_ray.pool.ingress import Shared

    sent = RequestRouterConfig(request_router_class=Shared).get_serialized_request_router_cls()
    code = (
        "import base64, sys\n"
        "sys.modules['polar_ray'] = None\n"
        "from ray import cloudpickle\n"
        "kind = cloudpickle.loads(base64.b64decode(sys.stdin.read()))\n"
        "assert kind.__name__ == 'Shared' and kind.choose_replicas\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], input=base64.b64encode(sent), check=True, timeout=120
    )


def test_a_serve_without_http_has_no_address_and_gets_no_pool_with_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would say that it is ready at an address where nobody listens."""

    def serve_with(location: ProxyLocation) -> None:
        options = SimpleNamespace(host="127.0.0.1", port=8123, location=location)
        client = SimpleNamespace(http_config=options)
        monkeypatch.setattr(ray_internals, "_get_global_client", lambda **_: client)

    serve_with(ProxyLocation.HeadOnly)
    assert ray_internals.http_address() == ("127.0.0.1", 8123)
    serve_with(ProxyLocation.Disabled)
    assert ray_internals.http_address() is None
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray_internals, "list_named_actors", lambda **_: [CONTROLLER])
    with (
        pytest.raises(ConfigError, match="without HTTP, as a rescoring job starts it"),
        pool(PoolConfig()),
    ):
        pass
