"""Settings: coercion of strings, dotted keys, refusals that name the key and its value."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from polar_ray.call_options import LONGEST_S, check_priority, check_timeout
from polar_ray.client import connect
from polar_ray.config import (
    HostConfig,
    NativeEngineConfig,
    PoolConfig,
    RescoreConfig,
    ScorerConfig,
    StubEngineConfig,
)
from polar_ray.config_base import Config, explain, parse_overrides
from polar_ray.errors import ConfigError, RecordError


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
        ({"tokens_of_nobody": 2}, "no such setting; there are model, encoding"),
        ({"max_length": 2}, "no such setting; did you mean encoding.max_length? there are model, "),
        ({"num_replica": 2}, "no such setting; did you mean num_replicas? there are model, "),
        (
            {"engine.devise": "cpu"},
            "engine.native: devise='cpu': no such setting; did you mean device?",
        ),
        ({"engine": "stub"}, "write engine.type=stub"),
        ({"num_replicas": 1, "max_replicas": 4}, "num_replicas=1 is a fixed number"),
        ({"min_replicas": 1}, "min_replicas needs max_replicas"),
        ({"autoscaling.target_wait_s": 5}, "autoscaling needs max_replicas"),
        ({"min_replicas": 5, "max_replicas": 4}, "min_replicas=5 is more than max_replicas=4"),
        ({"num_cpus": float("inf")}, "num_cpus=inf"),
        ({"timeout_s": float("inf")}, "timeout_s=inf"),
        (
            {"engine.type": "magic"},
            "engine.type='magic': it is one of native, remote, sglang, stub",
        ),
        ({"engine": {"type": 5}}, "engine.type=5: it is one of native, remote, sglang, stub"),
        ({"engine": {"type": None}}, "engine.type=None: it is one of native, remote, sglang, stub"),
        ({"encoding.cut_side": "middle"}, "encoding.cut_side='middle'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PoolConfig(**values)
    assert named in str(explain(caught.value))


class Rude:
    """An object of somebody else's."""

    def __repr__(self) -> str:
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(5, 5.0), (0.5, 0.5), (Fraction(1, 2), 0.5), (np.float32(0.5), 0.5), (np.int64(5), 5.0)],
    ids=repr,
)
def test_a_number_of_seconds_is_a_deadline(value: Any, seconds: float) -> None:
    assert check_timeout(value) == seconds


NO_TIMEOUTS = [
    (10**400, "timeout_s=1000000"),
    (-(10**400), "timeout_s=-1000000"),
    (10**5000, "timeout_s=(<int>|1000)"),  # Python refuses to spell it
    (Fraction(10**400), "timeout_s=Fraction"),
    (Fraction(1, 10**400), "timeout_s=Fraction"),
    (math.nan, "timeout_s=nan"),
    (math.inf, "timeout_s=inf"),
    (np.float64("nan"), "timeout_s=.*nan"),
    (LONGEST_S + 1, "timeout_s=2592001.0"),
    (0, "timeout_s=0;"),
    (-0.0, "timeout_s=-0.0"),
    (True, "timeout_s=True"),
    (np.bool_(True), "timeout_s=.*True"),
    ("5", "timeout_s='5'"),
    (b"5", "timeout_s=b'5'"),
    (Decimal(5), "timeout_s=Decimal"),
    (5j, "timeout_s=5j"),
    (np.ones(3), "timeout_s=array"),
    (np.ones(()), "timeout_s=array"),
    ([5], r"timeout_s=\[5\]"),
    (Rude(), "timeout_s=<Rude>"),
]

NO_PRIORITIES = [
    ("vip", "priority='vip'"),
    ("TRAIN", "priority='TRAIN'"),
    (b"train", "priority=b'train'"),
    (0, "priority=0;"),
    (None, "priority=None"),
    (True, "priority=True"),
    (["train"], "priority="),
    (np.array(["train", "eval"]), "priority=array"),
    (np.array(["train"]), "priority=array"),
    (Rude(), "priority=<Rude>"),
    ("x" * 10_000, "priority='xxx"),
]


def spelled(value: Any) -> str:
    """An id for what a case says, and none for the value, which may have no spelling."""
    return value if isinstance(value, str) and "=" in value else ""


@pytest.mark.parametrize(("value", "named"), NO_TIMEOUTS, ids=spelled)
def test_anything_else_is_no_deadline(value: Any, named: str) -> None:
    with pytest.raises(RecordError, match=named) as caught:
        check_timeout(value)
    assert len(str(caught.value)) < 200


def test_a_priority_is_its_rank() -> None:
    assert [check_priority(name) for name in ("train", "eval", "offline")] == [0, 1, 2]
    assert check_priority(np.str_("eval")) == 1


@pytest.mark.parametrize(("value", "named"), NO_PRIORITIES, ids=spelled)
def test_anything_else_is_no_priority(value: Any, named: str) -> None:
    with pytest.raises(RecordError, match=named) as caught:
        check_priority(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("value", "named"), NO_TIMEOUTS, ids=spelled)
def test_a_client_refuses_such_a_deadline(value: Any, named: str) -> None:
    with (
        connect(address="http://127.0.0.1:9") as client,
        pytest.raises(RecordError, match=named),
    ):
        client.score([], timeout_s=value)


@pytest.mark.parametrize(("value", "named"), NO_PRIORITIES, ids=spelled)
def test_a_client_refuses_such_a_priority(value: Any, named: str) -> None:
    with pytest.raises(RecordError, match=named):
        connect(address="http://127.0.0.1:9", priority=value)


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        PoolConfig().num_replicas = 3  # type: ignore[misc]


@pytest.mark.parametrize("kind", [ScorerConfig, *HostConfig.__subclasses__()])
def test_configs_can_be_keys(kind: type[Config]) -> None:
    """As of the clients and scorers that a process keeps."""
    assert hash(kind()) == hash(kind())


def test_configs_with_dicts_can_be_keys() -> None:
    given = {"num_workers": 1, "runtime_env": {"pip": ["sglang"]}}
    engine = {"type": "sglang", "server_args": {"chunked_prefill_size": 64}}
    config = RescoreConfig.model_validate({**given, "engine": engine})
    assert {config: 1}[RescoreConfig.model_validate({**given, "engine": engine})] == 1


def test_yaml_block_round_trips() -> None:
    config = PoolConfig(**{"engine.type": "stub", "num_replicas": 3})
    assert PoolConfig(**config.model_dump()) == config
    scaled = PoolConfig(min_replicas=0, max_replicas=4, **{"autoscaling.target_wait_s": 5})
    assert PoolConfig(**scaled.model_dump()) == scaled


@pytest.mark.parametrize(
    ("values", "least", "most"),
    [
        ({}, 1, 1),
        ({"num_replicas": 3}, 3, 3),
        ({"max_replicas": 4}, 1, 4),
        ({"min_replicas": 0, "max_replicas": 4}, 0, 4),
    ],
    ids=str,
)
def test_a_pool_has_a_fixed_size_or_two_bounds(
    values: dict[str, int], least: int, most: int
) -> None:
    config = PoolConfig(**values)
    assert (config.least_replicas, config.most_replicas) == (least, most)


def test_overrides_must_be_key_value() -> None:
    assert parse_overrides(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(ConfigError, match="'num_replicas' is not key=value"):
        parse_overrides(["num_replicas"])
