"""How fast one replica is on a GPU, on paper: operations of a group over a device's rates."""

from __future__ import annotations

import numpy as np

from polar_ray.capacity.devices import Device
from polar_ray.capacity.workload import Load
from polar_ray.config import DTypeName
from polar_ray.model import ModelConfig
from polar_ray.planning import build_pack
from polar_ray.planning.cost import Cost, Shape, cost

STEPS = {False: 280, True: 560}
"""Norms, rotations, gates and gaps between kernels, as a share of the time of 16-bit products: so
much over the model's width, as they grow with it and products with its square. True: where
activations are rounded to 8 bits in between. From `benchmarks/gpu_model.py`."""

WIDE = 0.8
"""Speed of several devices that divide a model, over the sum of theirs: assumed, and not even
modelled."""


def group_cost(config: ModelConfig, load: Load) -> Cost:
    """Operations of one group's pack, its prefix computed once."""
    lengths = [load.prefix, *[load.own] * load.group]
    parents = [-1, *[0] * load.group]
    ids = [np.zeros(length, dtype=np.int32) for length in lengths]
    names = Shape.__slots__
    shape = Shape(**{name: getattr(config, name) for name in names})
    return cost(shape, build_pack(ids, parents, list(range(1, load.group + 1))))


def records_per_s(
    config: ModelConfig, load: Load, device: Device, dtype: DTypeName, width: int
) -> float:
    """Records a second of one replica on `width` devices, always busy."""
    spent = group_cost(config, load)
    steps = STEPS[dtype == "fp8"] / config.hidden_size
    seconds = spent.linear / device.products("bfloat16" if dtype == "auto" else dtype)
    seconds += steps * spent.linear / device.products("bfloat16")
    seconds += spent.attention / device.attention
    return load.group / seconds * (width * WIDE if width > 1 else 1)
