"""The images' files: what they install, as whom they run; and, asked for, the image itself.

`POLAR_RAY_IMAGE_BASE` names an image with Python for `pytest -m slow tests/cluster/test_image.py`,
which builds the CPU image with buildah, as root, and scores in it; `POLAR_RAY_IMAGE_OPTIONS` has
more of buildah's options, for a machine that reaches packages in its own way.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.manifests import USER
from cluster.test_manifests import FOLDERS, JOBS, made

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "cluster" / "image"
DOCKERFILES = sorted(IMAGE.glob("*Dockerfile"))
tomllib = pytest.importorskip("tomllib")  # Python 3.11
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
BASE = os.environ.get("POLAR_RAY_IMAGE_BASE")


def pinned() -> dict[str, str]:
    lines = (IMAGE / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {name_of(name): version for name, version in pairs}


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def required(extra: str) -> Iterator[str]:
    """All that an extra asks for directly, and the base."""
    yield from PROJECT["dependencies"]
    for requirement in PROJECT["optional-dependencies"][extra]:
        if inner := re.match(r"polar-ray\[(.*)\]", requirement):
            for name in inner[1].split(","):
                yield from required(name)
        else:
            yield requirement


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    hadolint = shutil.which("hadolint", path=places)
    if hadolint is None:
        pytest.skip("hadolint has no build for this machine")
    done = subprocess.run([hadolint, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_all_that_serve_asks_for_is_pinned_within_its_bounds() -> None:
    packaging = pytest.importorskip("packaging.requirements")
    versions = pinned()
    for text in required("serve"):
        requirement = packaging.Requirement(text)
        assert requirement.specifier.contains(versions[name_of(text)]), text
    assert "pytest" not in versions


def test_it_installs_serve_as_it_is_and_runs_as_nobody() -> None:
    text = (IMAGE / "Dockerfile").read_text("utf-8")
    assert "--constraint constraints.txt '.[serve]'" in text
    assert "RAY_AUTH_MODE=token" in text
    for path in DOCKERFILES:
        users = re.findall(r"^USER (.*)$", path.read_text("utf-8"), re.MULTILINE)
        assert users[-1] == f"{USER}:{USER}", path.name


def test_nothing_but_the_package_is_sent_to_the_builder() -> None:
    first, *allowed = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert first == "*"
    copied = set[str]()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", (IMAGE / "Dockerfile").read_text(), re.M):
        copied |= set(line.split())
    assert {name.removeprefix("!") for name in allowed if name.startswith("!")} == copied


def test_manifests_name_images_of_this_version() -> None:
    version = PROJECT["version"]
    found = {
        name
        for place in (*FOLDERS, *JOBS)
        for name in re.findall(r"'image': '([^']*)'", str(made(place)))
    }
    assert found == {f"polar-ray:{version}-cpu", f"polar-ray:{version}-cuda"}
    for name in found:
        assert f"-t {name}" in (IMAGE / "Dockerfile").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(BASE is None, reason="POLAR_RAY_IMAGE_BASE names no image with Python")
def test_the_image_is_built_and_scores(tmp_path: Path) -> None:
    if shutil.which("buildah") is None or os.geteuid() != 0:
        pytest.skip("needs buildah, and root")
    options = shlex.split(os.environ.get("POLAR_RAY_IMAGE_OPTIONS", ""))
    tag = "polar-ray-test"
    build = ["buildah", "build", "--isolation", "chroot", "--network", "host"]
    files = ["-f", "cluster/image/Dockerfile", "--ignorefile", ".dockerignore"]
    arguments = ["--build-arg", f"BASE={BASE}", *options]
    subprocess.run([*build, *files, "-t", tag, *arguments, "."], cwd=ROOT, check=True)
    container = said("buildah", "from", tag)
    try:
        record = {"prompt": "1 + 1?", "reference": "2", "output": "It is 2."}
        script = f"id -u; echo {shlex.quote(json.dumps(record))} | polar-ray score -"
        run = ("buildah", "run", "--isolation", "chroot", container, "--", "bash", "-c", script)
        user, scores = said(*run).splitlines()
        assert user == str(USER)
        assert json.loads(scores)["error"] is None
    finally:
        said("buildah", "rm", container)


def said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
