"""What is shipped: the wheel goes without the built-in model's recipe, the sources hold all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
RECIPE = "polar_ray/train/recipe/"

IMPORT_ALL = """
import importlib, pkgutil, polar_ray.train
names = [info.name for info in pkgutil.walk_packages(polar_ray.train.__path__, "polar_ray.train.")]
for name in names:
    importlib.import_module(name)
print(polar_ray.__file__, *names)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with ZipFile(built) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_has_the_model_but_not_its_recipe(wheel: Path) -> None:
    files = {str(path.relative_to(wheel)) for path in wheel.rglob("*")}
    assert not [name for name in files if name.startswith(RECIPE.rstrip("/"))]
    assert {"polar_ray/train/loop.py", "polar_ray/assets/polar-tiny/config.json"} <= files
    assert not [p for p in wheel.rglob("*.py") if "train.recipe" in p.read_text(encoding="utf-8")]
    assert {"polar_ray/py.typed", "polar_ray/assets/polar-tiny/model.safetensors"} <= files


def test_training_imports_without_the_recipe(wheel: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=wheel, capture_output=True, text=True, check=True
    )
    origin, *names = done.stdout.split()
    assert Path(origin).is_relative_to(wheel)
    assert "polar_ray.train.loop" in names


def test_the_sources_hold_the_recipe() -> None:
    files = {file.relative_path for file in SdistBuilder(str(ROOT)).recurse_included_files()}
    assert {f"{RECIPE}__main__.py", f"{RECIPE}synthetic/words.json"} <= files


def test_all_that_a_source_distribution_names_is_there() -> None:
    for included in SdistBuilder(str(ROOT)).target_config["include"]:
        assert (ROOT / included).exists(), included
