"""From a load to a pool: how many replicas and routers, with how much memory, and on what that
rests. Pure arithmetic; every figure that was assumed is said in the plan itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from polar_ray.capacity.devices import Device
from polar_ray.capacity.speed import WIDE, records_per_s
from polar_ray.capacity.workload import Load, cut
from polar_ray.config import NativeEngineConfig, PoolConfig
from polar_ray.encoding import limits
from polar_ray.engine.token_budget import MAX_TOKENS, SHARE, activation_bytes
from polar_ray.errors import ConfigError
from polar_ray.model import ModelConfig

Calls = Literal["batches", "joined", "http"]

ROUTER_S: dict[Calls, float] = {"batches": 20e-6, "joined": 122e-6, "http": 5.6e-3}
"""Seconds of a router's one core for a record: in batches of 1,024, of callers of one record that
`connect` joins, and of one record as JSON over HTTP. Measured: `benchmarks/README.md`, Pool."""

BUSY = 0.8
"""Share of the time that replicas compute at the load that is asked for: trainers come in waves."""

ROUTER_BUSY = 0.5
"""The same of routers, which must answer at once."""

POOL = 0.97
"""A pool's throughput over its bare scorers'. Measured: `benchmarks/README.md`, Pool."""

BYTES_PER_TOKEN = 4
"""Of text. Measured of English rollouts; Chinese has some 5."""

HELD_S = 20.0
"""Seconds of work that routers hold while replicas are busy: `autoscaling.target_wait_s`."""

COPIES = 2
"""Of a record in the object store: the caller's batch, and the shards that are cut from it."""

BATCH = 1024
"""Records of one call where callers send batches."""

LEAST_STORE = 1 << 30
PROCESS = 3 << 30
"""Bytes of a replica's process on its host without weights: torch, Ray, texts in hand."""

ROUTER_PROCESS = 1 << 29
USABLE = 0.95
"""Of a device's memory: the rest is CUDA's own."""

WIDTHS = (1, 2, 4, 8)
"""Devices of one node that can divide a model."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A pool for a load."""

    replicas: int
    records_per_s: float
    """Of one replica, always busy."""

    busy: float
    """Share of the time that replicas compute at the load."""

    devices: int
    """GPUs of one replica; 0 on a CPU."""

    cpus: float
    """Cores of one replica."""

    routers: int
    weights_bytes: int
    """On each device."""

    replica_bytes: int
    """Of a replica's host memory."""

    router_bytes: int
    object_store_bytes: int
    """Over all nodes."""

    notes: tuple[str, ...]
    """What the reader should know before buying."""

    assumptions: tuple[str, ...]


def make_plan(
    config: PoolConfig,
    model: ModelConfig,
    load: Load,
    *,
    device: Device | None = None,
    measured: float | None = None,
    calls: Calls = "batches",
) -> Plan:
    """The pool that a load needs, of replicas with these settings: on GPUs of `device`, or on CPUs
    where one scorer was `measured` (records a second).

    Raises `ConfigError` for what cannot run: a dtype that the GPU lacks, a model that fits nowhere,
    records that a pool refuses.
    """
    _check_fields(config, load)
    scored, notes = cut(load, limits(config.encoding, model.window))
    if device is None:
        if measured is None:
            raise ValueError("on a CPU a plan needs a measured speed")
        width, weights, speed = 0, weight_bytes(model, "float32", 1), measured
        assumptions = [f"one replica was tried here: {speed:.3g} records/s"]
    else:
        engine = native(config)
        width, weights = place(model, engine, device, _gpus(config))
        speed = records_per_s(model, scored, device, engine.dtype, width)
        assumptions = list(_about_rates(device, engine, speed))
        if width > 1:
            notes.append(
                f"the model is divided among {width} GPUs (engine.tensor_parallel_size={width})"
            )
            assumptions.append(f"{width} GPUs are {WIDE:g} as fast as {width} times one")
    each = speed * POOL
    replicas = math.ceil(load.records_per_s / (each * BUSY))
    held = load.records_per_s * HELD_S * load.text_tokens * BYTES_PER_TOKEN
    routers = math.ceil(load.records_per_s * ROUTER_S[calls] / ROUTER_BUSY)
    holders = _holders(config, load, held, calls)
    if holders > routers:
        routers = holders
        notes.append("routers are as many as may hold what waits (admission)")
    if load.group == 1:
        notes.append("nothing is shared: 16 outputs of one prompt cost far less than 16 records")
    if routers > 1 and calls == "http":
        notes.append("callers through `connect` need far fewer routers than JSON over HTTP")
    assumptions += [
        f"a pool has {POOL:.0%} of its scorers' throughput; replicas are busy {BUSY:.0%} of time",
        f"{ROUTER_S[calls] * 1e6:,.0f} us of a router's core for a record ({calls})",
        f"{BYTES_PER_TOKEN} bytes a token, {HELD_S:g} s of work waiting",
    ]
    return Plan(
        replicas=replicas,
        records_per_s=each,
        busy=load.records_per_s / (each * replicas),
        devices=width,
        cpus=config.num_cpus,
        routers=routers,
        weights_bytes=weights,
        replica_bytes=PROCESS + weights * max(width, 1),
        router_bytes=int(ROUTER_PROCESS + COPIES * held / routers),
        object_store_bytes=max(LEAST_STORE, int(COPIES * held)),
        notes=tuple(notes),
        assumptions=tuple(assumptions),
    )


def _holders(config: PoolConfig, load: Load, held: float, calls: Calls) -> int:
    """How many routers may hold so many bytes, and the calls that they are of."""
    # A group comes together, and `connect` sends it as one call at least.
    records = {"batches": BATCH, "joined": load.group, "http": 1}[calls]
    limits = config.admission
    waiting = load.records_per_s * HELD_S / records
    return math.ceil(max(held / limits.max_bytes, waiting / limits.max_calls))


def _check_fields(config: PoolConfig, load: Load) -> None:
    longest = max(load.prompt, load.reference, load.output)
    if longest * BYTES_PER_TOKEN > config.encoding.max_field_bytes:
        raise ConfigError(
            f"fields of {longest:,} tokens are some {longest * BYTES_PER_TOKEN:,} bytes, over "
            f"encoding.max_field_bytes={config.encoding.max_field_bytes}: the pool refuses them"
        )


def native(config: PoolConfig) -> NativeEngineConfig:
    """The engine's settings; of others than ours nobody here knows the speed."""
    if not isinstance(config.engine, NativeEngineConfig):
        raise ConfigError(f"engine.type={config.engine.type}: plans are for the native engine")
    return config.engine


def _gpus(config: PoolConfig) -> float | None:
    return config.num_gpus if "num_gpus" in config.model_fields_set else None


def place(
    model: ModelConfig, engine: NativeEngineConfig, device: Device, num_gpus: float | None
) -> tuple[int, int]:
    """How many GPUs one replica needs, and bytes of weights on each. `num_gpus` are those that
    somebody asked for."""
    given = engine.tensor_parallel_size
    if engine.device == "cpu":
        raise ConfigError("engine.device=cpu: this is a plan for GPUs; --gpu cpu is one without")
    if num_gpus is not None and num_gpus < given:
        raise ConfigError(f"num_gpus={num_gpus:g} is less than one replica uses ({given})")
    widths = _widths(model, given)
    for width in widths:
        weights = weight_bytes(model, engine.dtype, width)
        needed = weights + activation_bytes(model, 2, "cuda", MAX_TOKENS["cuda"] // 2) / SHARE
        if needed <= device.memory_bytes * USABLE:
            if num_gpus is not None and num_gpus > width:
                raise ConfigError(f"num_gpus={num_gpus:g} is more than one replica uses ({width})")
            return width, weights
    raise ConfigError(
        f"{weight_bytes(model, engine.dtype, 1) / 1e9:,.0f} GB of weights do not fit into "
        f"{widths[-1]} {device.name} of {device.memory_bytes / 1e9:.0f} GB"
    )


def _widths(model: ModelConfig, given: int) -> list[int]:
    """Among how many GPUs the engine would divide the model: what is `given`, unless it is 1."""
    if given > WIDTHS[-1]:
        raise ConfigError(
            f"engine.tensor_parallel_size={given}: a replica has the GPUs of one node, at most "
            f"{WIDTHS[-1]}"
        )
    if given == 1:
        parts = math.gcd(model.num_key_value_heads, model.intermediate_size)
        return [width for width in WIDTHS if not parts % width]
    from polar_ray.model.tensor_parallel import check_divisible

    check_divisible(model, given)
    return [given]


def weight_bytes(model: ModelConfig, dtype: str, width: int) -> int:
    """Bytes of a model's weights on each of `width` devices: layers divided, embeddings whole."""
    kv = model.num_key_value_heads * model.head_dim
    layer = 2 * model.hidden_size * (model.hidden_size + kv)
    layer += 3 * model.hidden_size * model.intermediate_size
    wide = 4 if dtype == "float32" else 2
    narrow = 1 if dtype in ("fp8", "int8") else wide
    layers = model.num_hidden_layers * layer * narrow
    return layers // width + model.vocab_size * model.hidden_size * wide


def _about_rates(device: Device, engine: NativeEngineConfig, speed: float) -> list[str]:
    dtype = "bfloat16" if engine.dtype == "auto" else engine.dtype
    return [
        f"{device.name}, not measured: {device.products(dtype) / 1e12:,.0f} TFLOP/s of products in "
        f"{dtype}, {device.attention / 1e12:,.0f} of attention; so {speed:.3g} records/s a replica"
    ]
