"""What GPUs are taken to do: their data sheets, and the share of it that is assumed.

No rate here was measured by this project. The shares are those that `benchmarks/gpu_model.py`
assumes of an H200; its packs, taken apart kernel by kernel, are what `speed` is held against.
"""

from __future__ import annotations

from dataclasses import dataclass

from polar_ray.config import DTypeName
from polar_ray.errors import ConfigError

PRODUCTS = 0.71
"""Of a data sheet's operations that matrix products keep up: clocks fall under load."""

PRODUCTS_8_BIT = 0.66
ATTENTION = 0.37
"""Of the same 16-bit operations, by attention over whole tiles."""


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, by its data sheet: dense operations a second."""

    name: str
    memory_bytes: float
    flops_16: float
    flops_8: float | None
    """None: it has no float8."""

    def products(self, dtype: DTypeName) -> float:
        """Operations a second of a layer's products. Raises `ConfigError` for a dtype that it does
        not have, or whose speed nobody here has an idea of."""
        if dtype == "fp8":
            if self.flops_8 is None:
                raise ConfigError(f"engine.dtype=fp8 does not run on {self.name}, which has none")
            return PRODUCTS_8_BIT * self.flops_8
        if dtype == "int8":
            raise ConfigError("engine.dtype=int8 is for CPUs; on a GPU, fp8 is the 8-bit one")
        if dtype == "float32":
            raise ConfigError("there are no rates of float32 on a GPU; plan with bfloat16")
        return PRODUCTS * self.flops_16

    @property
    def attention(self) -> float:
        """Operations a second of attention, always in 16 bits."""
        return ATTENTION * self.flops_16


DEVICES = {
    device.name: device
    for device in (
        Device("A100", 80e9, 312e12, None),
        Device("B200", 180e9, 2250e12, 4500e12),
        Device("H100", 80e9, 989e12, 1979e12),
        Device("H200", 141e9, 989e12, 1979e12),
        Device("L40S", 48e9, 362e12, 733e12),
    )
}


def device_named(name: str) -> Device:
    """The GPU of a name, in either case; `ConfigError` says which there are."""
    found = DEVICES.get(name.upper())
    if found is None:
        raise ConfigError(f"--gpu {name}: there are {', '.join(DEVICES)}, and cpu, which is tried")
    return found
