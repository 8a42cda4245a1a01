"""Room for a second model on a device that has one: beside it, in its place, or not at all."""

from __future__ import annotations

from pathlib import Path

import torch

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.native import choose_device, choose_dtype
from polar_ray.errors import ConfigError
from polar_ray.model.weights import check_model

WORK = 2.0
"""Two models stand beside each other where there is room for the weights of the new one and for as
much again: both must be able to compute."""


def fits_beside(config: NativeEngineConfig, model_dir: Path) -> bool:
    """Whether a model fits beside the one that this process has, or only in its place.

    Raises `ConfigError` where it does not fit there either. Ranks are never two at once: a process
    has one group of them.
    """
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    size = check_model(model_dir) * dtype.itemsize // config.tensor_parallel_size
    free, held = memory(device)
    return choose(size, free, held) and config.tensor_parallel_size == 1


def choose(size: int, free: int, held: int | None) -> bool:
    """Whether weights of `size` bytes fit beside the model that holds `held`, of which None is
    not known, where `free` are left."""
    if held is not None and size > free + held:
        raise ConfigError(
            f"no room: the weights take {size / 1e9:.1f} GB, and the device would have "
            f"{(free + held) / 1e9:.1f} GB without the model that it has"
        )
    return size * WORK <= free


def memory(device: str) -> tuple[int, int | None]:
    """Bytes that are free, and what this process would give back."""
    if device == "cuda":
        # What torch has reserved but does not use is free.
        held = torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - held, held
    return available(Path("/proc/meminfo"), Path("/sys/fs/cgroup")), None


def available(meminfo: Path, cgroup: Path) -> int:
    """Memory that a process of this machine, or of this container, can have: caches give way."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    machine = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        most = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        cached = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except OSError:  # no container, or an older kernel
        return machine
    if most == "max":
        return machine
    return min(machine, int(most) - used + int(cached["inactive_file"]))
