"""Settings of adapters: arguments before the environment before what a trainer needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from polar_ray.adapters.settings import AdapterConfig, check_place, own_settings, read_settings
from polar_ray.errors import ConfigError


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


def test_a_pool_must_be_named_once() -> None:
    with pytest.raises(ConfigError, match="POLAR_RAY_ADDRESS"):
        check_place(AdapterConfig())
    with pytest.raises(ConfigError, match="not both"):
        check_place(AdapterConfig(address="http://pool", app_name="polar"))


def test_columns_of_a_data_set_are_no_settings() -> None:
    columns = {"timeout_s": 1, "address": "12 Main Street", "polar_timeout_s": 9}
    assert own_settings(columns) == {"timeout_s": 9}
