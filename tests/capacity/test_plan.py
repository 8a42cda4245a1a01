"""Plans as arithmetic: each figure follows from the load."""

from __future__ import annotations

from typing import Any

import pytest
from capacity.test_speed import polar

from polar_ray.capacity import DEVICES, Load, Plan, cut, make_plan
from polar_ray.capacity.plan import (
    BATCH,
    BUSY,
    BYTES_PER_TOKEN,
    COPIES,
    HELD_S,
    POOL,
    ROUTER_PROCESS,
    place,
    weight_bytes,
)
from polar_ray.config import AdmissionConfig, NativeEngineConfig, PoolConfig, StubEngineConfig
from polar_ray.encoding import limits
from polar_ray.encoding.truncate import Limits
from polar_ray.errors import ConfigError

LOAD = Load(100, prompt=300, reference=500, output=800)


def planned(load: Load = LOAD, **changes: Any) -> Plan:
    given = {"device": DEVICES["H200"], **changes}
    model, config = given.pop("model", polar("POLAR-7B")), given.pop("config", PoolConfig())
    return make_plan(config, model, load, **given)


def test_replicas_carry_the_load_with_time_to_spare() -> None:
    found = planned()
    assert found.replicas * found.records_per_s * BUSY >= 100
    assert (found.replicas - 1) * found.records_per_s * BUSY < 100
    assert found.busy == pytest.approx(100 / (found.replicas * found.records_per_s))


def test_ten_times_the_load_is_some_ten_times_the_pool() -> None:
    one, ten = planned(), planned(Load(1000, 300, 500, 800))
    assert 10 * (one.replicas - 1) <= ten.replicas <= 10 * one.replicas
    text_bytes = LOAD.prompt + LOAD.reference + LOAD.output
    assert planned(Load(9000, 300, 500, 800)).object_store_bytes == (
        COPIES * 9000 * 20 * text_bytes * BYTES_PER_TOKEN
    )


@pytest.mark.parametrize(
    ("rate", "calls", "routers"),
    [
        (25_000, "batches", 1),
        (25_001, "batches", 2),
        (4_000, "joined", 1),
        (8_000, "joined", 2),
        (89, "http", 1),
        (90, "http", 2),
    ],
)
def test_routers_are_busy_half_of_the_time(rate: float, calls: Any, routers: int) -> None:
    assert planned(Load(rate, 10, 10, 10), calls=calls).routers == routers


@pytest.mark.parametrize("calls", ["batches", "joined", "http"])
@pytest.mark.parametrize("group", [1, 16])
@pytest.mark.parametrize("admission", [{}, {"max_bytes": 1 << 26}, {"max_calls": 20}])
def test_routers_may_hold_what_they_are_planned_to(
    calls: Any, group: int, admission: dict[str, int]
) -> None:
    config = PoolConfig(admission=AdmissionConfig(**admission))
    load = Load(1e6, 300, 500, 800, group)
    found = planned(load, config=config, calls=calls)
    held = 1e6 * HELD_S
    per_call = {"batches": BATCH, "joined": group, "http": 1}[calls]
    assert held / per_call <= found.routers * config.admission.max_calls
    assert held * 1600 * BYTES_PER_TOKEN <= found.routers * config.admission.max_bytes
    assert found.router_bytes <= ROUTER_PROCESS + COPIES * config.admission.max_bytes


def test_more_routers_than_their_work_takes_are_explained() -> None:
    assert any("may hold what waits" in note for note in planned(Load(1e6, 300, 500, 800)).notes)
    assert not any("may hold what waits" in note for note in planned().notes)


def test_records_that_a_pool_refuses_have_no_plan() -> None:
    with pytest.raises(ConfigError, match=r"over encoding\.max_field_bytes=1048576"):
        planned(Load(100, 300, 500, 1 << 24))


def test_what_is_cut_is_said_and_not_paid_for() -> None:
    long = planned(Load(100, 300, 500, 9000))
    assert "output: 9,000 tokens are cut to 4,095" in long.notes[0]
    assert long.records_per_s == planned(Load(100, 300, 500, 4095)).records_per_s


def test_a_prompt_is_cut_to_what_responses_leave() -> None:
    scored, notes = cut(Load(1, 5000, 90, 90), Limits(2048, 100))
    assert (scored.reference, scored.output) == (90, 90)
    # (2048 - 4 - 91 - 91) / 2, of which one is the BOS.
    assert scored.prompt == 930
    assert scored.tokens <= 2048 + 4
    assert len(notes) == 1


def test_nothing_is_cut_that_fits() -> None:
    assert cut(LOAD, limits(PoolConfig().encoding, 32768)) == (LOAD, [])


def test_a_cpu_is_planned_by_its_trial() -> None:
    found = planned(device=None, measured=10.0)
    assert (found.devices, found.cpus) == (0, 1)
    assert found.records_per_s == pytest.approx(10 * POOL)
    assert found.replicas == 13
    assert "tried here: 10 records/s" in found.assumptions[0]


def test_a_large_model_is_divided_among_gpus() -> None:
    large = polar("POLAR-7B", num_hidden_layers=320, hidden_size=8192, num_attention_heads=64)
    found = planned(model=large)
    assert found.devices == 4
    assert any("divided among 4 GPUs" in note for note in found.notes)
    assert found.weights_bytes < DEVICES["H200"].memory_bytes
    with pytest.raises(ConfigError, match="do not fit into 2 H200"):
        place(large, NativeEngineConfig(tensor_parallel_size=2), DEVICES["H200"], 2)


def test_what_fits_nowhere_is_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit into 8 L40S"):
        planned(
            model=polar("POLAR-7B", num_hidden_layers=600, hidden_size=8192),
            device=DEVICES["L40S"],
        )


def test_fewer_gpus_than_the_engine_uses_are_refused() -> None:
    config = PoolConfig(num_gpus=1, engine=NativeEngineConfig(tensor_parallel_size=2))
    with pytest.raises(ConfigError, match="num_gpus=1 is less"):
        planned(config=config)


@pytest.mark.parametrize(
    ("size", "wrong"),
    [(3, "does not divide num_key_value_heads=8"), (16, "the GPUs of one node, at most 8")],
)
def test_a_division_that_the_engine_refuses_is_refused(size: int, wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"engine.tensor_parallel_size={size}.*{wrong}"):
        planned(config=PoolConfig(engine=NativeEngineConfig(tensor_parallel_size=size)))


def test_only_divisions_that_the_engine_takes_are_planned() -> None:
    large = polar("POLAR-7B", num_hidden_layers=320, hidden_size=8192, num_attention_heads=64)
    odd = large.model_copy(update={"intermediate_size": 14338})
    with pytest.raises(ConfigError, match="do not fit into 2 H200"):
        planned(model=odd)


def test_other_engines_have_no_plan() -> None:
    with pytest.raises(ConfigError, match=r"engine\.type=stub"):
        planned(config=PoolConfig(engine=StubEngineConfig()))


def test_weights_are_as_many_bytes_as_the_model_has() -> None:
    # As published: 7.2 billion weights without a second embedding.
    assert weight_bytes(polar("POLAR-7B"), "auto", 1) / 2 == pytest.approx(7.36e9, rel=0.01)
    whole, half = (weight_bytes(polar("POLAR-7B"), "bfloat16", width) for width in (1, 2))
    embeddings = 2 * 92544 * 4096
    assert half - embeddings == (whole - embeddings) // 2


@pytest.mark.parametrize("wrong", [{"records_per_s": 0}, {"group": 0}, {"output": 0}])
def test_a_load_of_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Load(**{"records_per_s": 1, "prompt": 1, "reference": 1, "output": 1, **wrong})
