"""The import rules of polar_ray/README.md: imports go down only, and heavy libraries stay put."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "polar_ray"
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES})

LAYERS = {
    "errors": 0,
    "extras": 0,
    "config": 0,
    "config_base": 0,
    "call_options": 0,
    "messages": 0,
    "records": 0,
    "scores": 0,
    "sizes": 0,
    "stream": 0,
    "hub": 1,
    "json_object": 0,
    "token_file": 0,
    "tables": 0,
    "assets": 0,
    "encoding": 1,
    "planning": 1,
    "client": 1,
    "data": 1,
    "model": 2,
    "engine": 3,
    "checkpoint": 4,
    "scorer": 4,
    "pool": 5,
    "train": 5,
    "evaluate": 5,
    "capacity": 5,
    "offline": 6,
    "verify": 5,
    "adapters": 2,
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
        "pool/router/replicas.py",
        "pool/ingress.py",
        "pool/ray_internals.py",
        "pool/router/request_router.py",
        "pool/runtime_env.py",
        "adapters/nemo_rl.py",
        "client/handle.py",
        "offline/own_pool.py",
        "offline/tasks.py",
    },
    "torch": {
        "model",
        "engine",
        "train",
        "verify",
        "adapters/nemo_rl.py",
        "adapters/roll.py",
    },
    "fastapi": {"adapters/nemo_gym.py", "pool/http/routes.py", "pool/http/bodies.py"},
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


def imported_files(path: Path) -> set[Path]:
    """The files of the package that a file imports, wherever in it the import stands."""
    found = set[Path]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = list[str]()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            # What is imported from a folder is a file of it, or a name of its __init__.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if file_of(name) else str(node.module) for name in inner]
        found |= {file for name in names if (file := file_of(name))}
    return found - {path}


def file_of(module: str) -> Path | None:
    """polar_ray.encoding.encoder -> .../polar_ray/encoding/encoder.py"""
    place = PACKAGE.parent.joinpath(*module.split("."))
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in candidates if file in FILES), None)


def circle(graph: Mapping[Path, set[Path]]) -> list[Path]:
    """Files that import each other in a circle; none if there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def child(path: Path, folder: Path) -> Path | None:
    """What of a folder a file is, or is in; None if it is elsewhere."""
    return folder / path.relative_to(folder).parts[0] if path.is_relative_to(folder) else None


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
        assert LAYERS[other] < LAYERS[own] or LAYERS[own] == LAYERS[other] in (0, 4), (
            f"{path.name} imports {module}"
        )


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_in_a_folder_imports_itself_in_a_circle(folder: Path) -> None:
    """Files and folders; imports for types and within functions count, too. The package's own
    `__init__` shows names of all parts, and is left out."""
    graph = defaultdict[Path, set[Path]](set)
    for path in FILES:
        if (own := child(path, folder)) is not None and path != PACKAGE / "__init__.py":
            others = {child(other, folder) for other in imported_files(path)}
            graph[own] |= {other for other in others if other not in (None, own)}
    graph.pop(PACKAGE / "__init__.py", None)
    assert not [str(path.relative_to(PACKAGE)) for path in circle(graph)]


def test_a_circle_is_found() -> None:
    first, second, third = Path("a"), Path("b"), Path("c")
    assert circle({first: {second}, second: {third}, third: {second}})
    assert not circle({first: {second, third}, second: {third}, third: set()})


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


def test_adapters_use_the_client_and_nothing_else() -> None:
    """What a trainer's environment must have is the base install."""
    allowed = {name for name, layer in LAYERS.items() if layer == 0} | {"client", "adapters"}
    for path in sorted((PACKAGE / "adapters").glob("*.py")):
        ours = {part_of(m) for m, _ in imports(path) if m.split(".")[0] == "polar_ray"}
        assert ours <= allowed, path
        heavy = {m.split(".")[0] for m, early in imports(path) if early} & set(ALLOWED)
        assert not heavy, path
