"""Each extra brings what it promises: its own libraries are enough for its part of the package."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from polar_ray.extras import EXTRAS, extra_of, require

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml by itself")

PROJECT: Mapping[str, Any] = tomllib.loads(
    (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
)["project"]

PROMISES = {
    "": """
import polar_ray, polar_ray.cli, polar_ray.data.formats, polar_ray.client.http
polar_ray.connect(address='http://127.0.0.1:9').close()
from polar_ray import RewardModelClient
""",
    "ray": "import polar_ray.client.handle",
    "engine": """
import polar_ray, polar_ray.verify
[row] = polar_ray.Scorer().score([{'prompt': 'p', 'reference': 'r', 'output': 'o'}]).to_pylist()
assert row['error'] is None, row
""",
    "serve": "import polar_ray.demo, polar_ray.pool.local; from polar_ray import Scorer, app",
    "eval": "import polar_ray.evaluate.agreement, polar_ray.evaluate.report",
    "train": "import polar_ray.train.data, polar_ray.train.loop, polar_ray.train.loss",
}

ABSENT = """
import sys
from importlib.machinery import PathFinder
class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        found = PathFinder.find_spec(name, path, target)
        if name in {refused!r} or name.split('.')[0] in {refused!r}:
            # Ray brings a psutil of its own.
            return found if 'thirdparty_files' in str(found and found.origin) else None
        return found
sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
"""
"""Lets modules look as if they were not installed."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(extra: str) -> list[Requirement]:
    """What one extra asks for, and through this project's other extras."""
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    found = []
    for requirement in map(Requirement, wanted):
        if canonical(requirement.name) != "polar-ray":
            found.append(requirement)
            continue
        for other in requirement.extras:
            found += requirements(other)
    return found


def closure(extra: str) -> set[str]:
    """All distributions that pip would install."""
    waiting, seen = requirements("") + requirements(extra) * bool(extra), set()
    while waiting:
        requirement = waiting.pop()
        key = (canonical(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            below = map(Requirement, requires(requirement.name) or [])
        except PackageNotFoundError:  # for another system
            continue
        for child in below:
            contexts = [{"extra": name} for name in ("", *requirement.extras)]
            if child.marker is None or any(child.marker.evaluate(each) for each in contexts):
                waiting.append(child)
    return {name for name, _ in seen}


def run(code: str, extra: str) -> subprocess.CompletedProcess[str]:
    """Runs code where only the base install and one extra can be imported."""
    allowed = closure(extra)
    refused = {
        module
        for module, owners in packages_distributions().items()
        if not {canonical(owner) for owner in owners} & (allowed | {"polar-ray"})
    }
    if "protobuf" not in allowed:
        refused.add("google.protobuf")
    return subprocess.run(
        [sys.executable, "-c", ABSENT.format(refused=refused) + code],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("extra", PROMISES)
def test_an_extra_is_enough_for_what_it_is_for(extra: str) -> None:
    done = run(PROMISES[extra], extra)
    assert done.returncode == 0, done.stderr


def test_every_extra_has_a_promise() -> None:
    assert set(PROMISES) == {"", *EXTRAS}
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - {"all", "bench", "dev"}
    for extra in EXTRAS:
        assert closure(extra) <= closure("all"), extra


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_table_names_what_pyproject_asks_for(extra: str) -> None:
    modules = {
        "protobuf": ["google.protobuf"],
        "huggingface-hub": ["huggingface_hub"],
        "ray": ["ray", "fastapi"],
    }
    asked = [modules.get(asked.name, [asked.name]) for asked in requirements(extra)]
    assert set(EXTRAS[extra]) == {module for each in asked for module in each}


@pytest.mark.parametrize(
    ("code", "lacks"),
    [
        ("polar_ray.Scorer", ("engine", "torch")),
        ("polar_ray.app", ("serve", "psutil")),
        ("polar_ray.connect(app_name='polar')", ("ray", "ray")),
    ],
)
def test_what_is_missing_is_said_with_the_extra_that_brings_it(
    code: str, lacks: tuple[str, str]
) -> None:
    extra, module = lacks
    done = run(f"import polar_ray; {code}", "")
    said = done.stderr.splitlines()[-1]
    assert re.search(rf"^ImportError: .* needs .*\b{module}\b", said), done.stderr
    assert said.endswith(f"pip install 'DIR[{extra}]', DIR a clone of polar_ray")


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["serve"], "serve"),
        (["demo"], "serve"),
        (["score", "-"], "engine"),
        (["verify", "builtin"], "engine"),
        (["eval", "agreement", "a.parquet", "b.parquet"], "eval"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_command_says_what_to_install(command: list[str], extra: str) -> None:
    code = f"from polar_ray.cli import cli; cli({command!r})"
    done = run(code, "")
    assert done.returncode == 2, done.stderr
    assert f"pip install 'DIR[{extra}]'" in done.stderr


def test_a_module_belongs_to_the_smallest_extra() -> None:
    found = [extra_of(name) for name in ("ray.serve", "torch", "google.protobuf.x", "psutil")]
    assert found == ["ray", "engine", "engine", "serve"]
    assert [extra_of(name) for name in (None, "google", "torchvision", "json")] == [None] * 4
    require("serve", "this test")


def test_the_bounds_of_ray_are_those_that_were_tested() -> None:
    from polar_ray.pool.ray_internals import SUPPORTED

    assert PROJECT["optional-dependencies"]["ray"] == [SUPPORTED]
    [data] = [each for each in PROJECT["optional-dependencies"]["dev"] if each.startswith("ray")]
    assert data.replace("data", "serve") == SUPPORTED
