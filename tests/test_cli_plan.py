"""`polar-ray plan`: what it prints can be given to `polar-ray serve`, and says what it is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from typer.testing import CliRunner, Result

from polar_ray.cli import cli
from polar_ray.config import PoolConfig
from polar_ray.config_base import parse_overrides


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plan", *arguments])


def planned(*arguments: str) -> dict[str, Any]:
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_plan_that_names_no_model_names_the_one_that_it_is_for() -> None:
    found = planned("--records-per-s", "1000")
    assert found["settings"][0] == "model=internlm/POLAR-7B"
    assert found == planned("--records-per-s", "1000", "model=internlm/POLAR-7B")


def test_its_settings_are_a_pools_and_keep_what_was_given() -> None:
    found = planned("model=internlm/POLAR-1_8B", "engine.dtype=fp8", "num_replicas=3")
    config = PoolConfig.model_validate(parse_overrides(found["settings"]))
    assert config.model == "internlm/POLAR-1_8B"
    assert config.engine.model_dump()["dtype"] == "fp8"
    assert (config.num_replicas, config.num_gpus) == (found["replicas"], 1)


def test_a_folder_of_a_known_name_is_read(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "internlm" / "POLAR-7B")
    own, known = planned(f"model={folder}"), planned("model=internlm/POLAR-7B")
    assert own["weights_bytes"] < known["weights_bytes"] / 100


def test_a_folder_comes_before_a_hubs_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path / "internlm" / "POLAR-7B")
    known = planned("model=internlm/POLAR-7B@main")
    monkeypatch.chdir(tmp_path)
    assert planned("model=internlm/POLAR-7B")["weights_bytes"] < known["weights_bytes"] / 100


@pytest.mark.parametrize("model", ["POLAR-7B", "/nowhere/POLAR-7B", "internlm/POLAR-7B@"])
def test_a_model_that_is_nowhere_has_no_plan(model: str) -> None:
    done = run(f"model={model}")
    assert done.exit_code == 2
    assert f"model={model!r} is not a directory" in done.stderr


@pytest.mark.parametrize(
    ("tokens", "wrong"),
    [
        ("300,x,500,800", "'x'"),
        ("a,300,500,800", "'a'"),
        ("300,500,800,", "''"),
        ("300,500", "three numbers"),
        ("1,2,3,4", "three numbers"),
    ],
)
def test_tokens_are_three_numbers_and_nothing_else(tokens: str, wrong: str) -> None:
    done = run("--tokens", tokens)
    assert done.exit_code == 2
    assert wrong in done.stderr


def test_mistakes_are_one_line() -> None:
    for arguments in (["--gpu", "cuda"], ["--tokens", "3"], ["nope=1"]):
        done = run(*arguments)
        assert done.exit_code == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
