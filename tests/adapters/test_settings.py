"""Settings of adapters: arguments before the environment before what a trainer needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from polar_ray.adapters.settings import (
    OTHERS,
    PREFIX,
    AdapterConfig,
    check_place,
    own_settings,
    read_settings,
)
from polar_ray.errors import ConfigError

READ = ("", ".py", ".md", ".yaml", ".sh", ".toml", ".yml")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AdapterConfig.model_fields:
        monkeypatch.delenv(f"POLAR_RAY_{name.upper()}", raising=False)


def test_the_environment_gives_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "ADDRESS": "http://pool:8000",
        "TIMEOUT_S": "12.5",
        "PRIORITY": "eval",
        "TOKEN_FILE": "/run/token",
        "STRIP_THINK": "no",
        "END_TOKENS": "<a> <b>",
        "REFERENCE_COLUMN": "gold",
        "PROMPT_COLUMN": "question",
        "APP_NAME": "",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"POLAR_RAY_{name}", value)
    assert read_settings() == AdapterConfig(
        address="http://pool:8000",
        timeout_s=12.5,
        priority="eval",
        token_file=Path("/run/token"),
        strip_think="no",
        end_tokens=("<a>", "<b>"),
        reference_column="gold",
        prompt_column="question",
    )
    assert len(given) == len(AdapterConfig.model_fields)


def test_arguments_go_before_the_environment_and_that_before_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert read_settings(timeout_s=10).timeout_s == 10
    monkeypatch.setenv("POLAR_RAY_TIMEOUT_S", "20")
    assert read_settings(timeout_s=10).timeout_s == 20
    assert read_settings({"timeout_s": 30}, timeout_s=10).timeout_s == 30


def test_whoever_names_a_pool_means_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLAR_RAY_APP_NAME", "polar")
    settings = read_settings({"address": "http://pool"})
    assert (settings.address, settings.app_name) == ("http://pool", None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"timeout_s": "soon"}, "timeout_s='soon'"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"strip_think": "yes"}, "strip_think='yes'"),
        ({"adress": "http://pool"}, "adress='http://pool': no such setting"),
    ],
)
def test_a_mistake_is_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_settings(given)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("POLAR_RAY_TIMEOUT", "POLAR_RAY_TIMEOUT is no setting of an adapter; did you mean "
         "POLAR_RAY_TIMEOUT_S?"),
        ("POLAR_RAY_ADRESS", "did you mean POLAR_RAY_ADDRESS?"),
        ("POLAR_RAY_SEED", "there are POLAR_RAY_ADDRESS, POLAR_RAY_APP_NAME, "),
    ],
)  # fmt: skip
def test_a_misspelt_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    monkeypatch.setenv(variable, "3")
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_settings()


def test_a_wrong_value_of_the_environment_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POLAR_RAY_STRIP_THINK", "yes")
    with pytest.raises(ConfigError, match=r"strip_think='yes'.*\(set by POLAR_RAY_STRIP_THINK\)"):
        read_settings()
    with pytest.raises(ConfigError) as caught:
        read_settings({"strip_think": "no", "timeout_s": 0})
    assert "set by" not in str(caught.value)


def test_variables_of_other_parts_of_this_project_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the project's files name is either a setting or another part's."""
    root = Path(__file__).parents[2]
    files = [p for part in ("tests", "cluster", "polar_ray", "benchmarks", "examples", ".ci")
             for p in (root / part).rglob("*") if p.is_file() and p.suffix in READ]  # fmt: skip
    found = {
        name
        for path in files
        if path.parent != Path(__file__).parent  # names that are wrong on purpose
        for name in re.findall(rf"\b{PREFIX}([A-Z_]*[A-Z])\b", path.read_text(errors="ignore"))
    }
    assert {"TRAINERS", "VLLM"} <= found
    assert found <= OTHERS | {name.upper() for name in AdapterConfig.model_fields}
    for name in OTHERS:
        monkeypatch.setenv(PREFIX + name, "x")
    read_settings()


def test_a_pool_must_be_named_once() -> None:
    with pytest.raises(ConfigError, match="POLAR_RAY_ADDRESS"):
        check_place(AdapterConfig())
    with pytest.raises(ConfigError, match="not both"):
        check_place(AdapterConfig(address="http://pool", app_name="polar"))


def test_columns_of_a_data_set_are_no_settings() -> None:
    columns = {"timeout_s": 1, "address": "12 Main Street", "polar_timeout_s": 9}
    assert own_settings(columns) == {"timeout_s": 9}
