"""Settings: coercion of strings, dotted keys, refusals that name the key and its value."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from polar_ray.config import (
    NativeEngineConfig,
    PoolConfig,
    ScorerConfig,
    StubEngineConfig,
    explain,
    parse_overrides,
)
from polar_ray.errors import ConfigError


def test_strings_of_the_command_line_are_coerced() -> None:
    config = PoolConfig(**{"num_replicas": "4", "num_gpus": "0.5", "http.max_body_bytes": "10"})
    assert (config.num_replicas, config.num_gpus, config.http.max_body_bytes) == (4, 0.5, 10)


def test_dotted_keys_reach_nested_settings() -> None:
    config = PoolConfig(**{"engine.type": "stub", "encoding.max_length": "64"})
    assert config.engine == StubEngineConfig()
    assert config.scorer.encoding.max_length == 64


def test_engine_without_type_is_native() -> None:
    config = ScorerConfig(**{"engine.device": "cpu"})
    assert config.engine == NativeEngineConfig(device="cpu")


def test_dotted_and_nested_keys_join() -> None:
    config = PoolConfig(**{"engine": {"type": "stub"}, "engine.seconds_per_token": 0.5})
    assert config.engine == StubEngineConfig(seconds_per_token=0.5)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicas": 2}, "replicas=2"),
        ({"num_replicas": 0}, "num_replicas=0"),
        ({"replicas": 2}, "no such setting; there are model, num_replicas"),
        ({"engine.devise": "cpu"}, "engine.native: devise='cpu': no such setting; there are type"),
        ({"engine": "stub"}, "write engine.type=stub"),
        ({"num_cpus": float("inf")}, "num_cpus=inf"),
        ({"timeout_s": float("inf")}, "timeout_s=inf"),
        ({"engine.type": "magic"}, "magic"),
        ({"encoding.cut_side": "middle"}, "encoding.cut_side='middle'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PoolConfig(**values)
    assert named in str(explain(caught.value))


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        PoolConfig().num_replicas = 3  # type: ignore[misc]


def test_yaml_block_round_trips() -> None:
    config = PoolConfig(**{"engine.type": "stub", "num_replicas": 3})
    assert PoolConfig(**config.model_dump()) == config


def test_overrides_must_be_key_value() -> None:
    assert parse_overrides(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(ConfigError, match="'num_replicas' is not key=value"):
        parse_overrides(["num_replicas"])
