"""The import rules of polar_ray/README.md: imports go down only, and heavy libraries stay put."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "polar_ray"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = {
    "errors": 0,
    "config": 0,
    "records": 0,
    "stream": 0,
    "assets": 0,
    "encoding": 1,
    "planning": 1,
    "client": 1,
    "files": 1,
    "data": 1,
    "model": 2,
    "engine": 3,
    "scorer": 4,
    "pool": 5,
    "train": 5,
    "evaluate": 5,
    "offline": 6,
    "verify": 5,
    "demo": 7,
    "cli": 8,
}
ALLOWED = {
    "ray": {
        "pool/app.py",
        "pool/local.py",
        "pool/replica/metrics.py",
        "pool/replica/deployment.py",
        "pool/router/deployment.py",
        "pool/ingress.py",
        "pool/router/request_router.py",
        "client/handle.py",
        "offline/own_pool.py",
        "offline/tasks.py",
    },
    "torch": {"model", "engine", "train", "verify"},
    "fastapi": {"pool/http/routes.py", "pool/http/bodies.py"},
    "starlette": {"pool/http/routes.py", "pool/http/bodies.py", "pool/http/auth.py"},
}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        id(node)
        for scope in ast.walk(tree)
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(scope, ast.If) and "TYPE_CHECKING" in ast.dump(scope.test))
        for node in ast.walk(scope)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", id(node) not in late))
    return found


def part_of(module: str) -> str:
    """polar_ray.encoding.encoder -> encoding"""
    return ([*module.split("."), ""])[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in LAYERS, f"say in LAYERS where {own} belongs"
    for module, early in imports(path):
        other = part_of(module)
        if module.split(".")[0] != "polar_ray" or not early or other in ("", own):
            continue
        assert LAYERS[other] < LAYERS[own] or (LAYERS[own] == LAYERS[other] == 0), (
            f"{path.name} imports {module}"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_files(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    for module, _ in imports(path):
        allowed = ALLOWED.get(module.split(".")[0])
        if allowed is not None:
            assert relative in allowed or relative.split("/")[0] in allowed, module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_nothing_unpickles_or_runs_remote_code() -> None:
    forbidden = ("pickle", "cloudpickle", "dill", "marshal", "shelve")
    for path in FILES:
        assert not [m for m, _ in imports(path) if m.split(".")[0] in forbidden], path
        text = path.read_text(encoding="utf-8")
        for word in ("torch.load(", "trust_remote_code=True", "yaml.load(", "eval(", "exec("):
            assert word not in text.replace(".eval()", ""), f"{word} in {path}"
