"""How much memory a device has free, and whether a second model fits beside the loaded one."""

from __future__ import annotations

from pathlib import Path

import torch

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.device import choose_device, choose_dtype
from polar_ray.errors import ConfigError
from polar_ray.model.weights import check_model

HEADROOM = 2.0
"""A second model is loaded beside the first where this many times its weights are free: both need
memory for activations."""


def fits_beside(config: NativeEngineConfig, model_dir: Path) -> bool:
    """Whether a model can be loaded while this process still holds another one.

    Raises `ConfigError` where it would not fit even after that one is dropped. Tensor-parallel
    models never stand beside each other: a process has one process group.
    """
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    size = check_model(model_dir) * dtype.itemsize // config.tensor_parallel_size
    free, held = memory(device)
    return choose(size, free, held) and config.tensor_parallel_size == 1


def choose(size: int, free: int, held: int | None) -> bool:
    """Whether weights of `size` bytes fit into `free` bytes with headroom, beside a loaded model of
    `held` bytes (None: not known)."""
    if held is not None and size > free + held:
        raise ConfigError(
            f"no room: the weights take {size / 1e9:.1f} GB, and the device would have "
            f"{(free + held) / 1e9:.1f} GB without the model that it has"
        )
    return size * HEADROOM <= free


def memory(device: str) -> tuple[int, int | None]:
    """Bytes that are free, and those that the loaded model holds (None: not known)."""
    if device == "cuda":
        # What torch has reserved but does not use is free.
        held = torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - held, held
    return available(Path("/proc/meminfo"), Path("/sys/fs/cgroup")), None


def available(meminfo: Path, cgroup: Path) -> int:
    """Bytes that this machine or container can still give a process; file caches count as free."""
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


def free_bytes(device: str, held: int) -> int:
    """Memory that a model of `held` bytes has beside itself, once it is alone in this process.

    On a GPU, what torch has reserved and what another model holds are free then.
    """
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0]) + torch.cuda.memory_reserved() - held
    return memory(device)[0]
