"""Which device and dtype a model is computed in, from the config and what the machine has."""

from __future__ import annotations

import logging

import torch

from polar_ray.errors import ConfigError

logger = logging.getLogger(__name__)


def choose_device(wanted: str) -> str:
    """auto is cuda where there is one; asking for a missing device is a `ConfigError`."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("engine.device=cuda, but torch sees no CUDA device; use cpu or auto")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def choose_dtype(wanted: str, device: str) -> torch.dtype:
    """What is not rounded to 8 bits: auto is bfloat16 on cuda and float32 on a CPU, whatever the
    checkpoint is stored in, so that a CPU's scores are the same on every machine.

    16-bit products are some hundred times slower than float32's on CPUs that only emulate them, and
    twice as fast on those that do not.
    """
    if (wanted, device) in (("int8", "cuda"), ("fp8", "cpu")):
        raise ConfigError(
            f"engine.dtype={wanted} does not run on {device}; int8 is for CPUs, fp8 for GPUs"
        )
    if wanted == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        raise ConfigError("engine.dtype=fp8 needs a GPU of compute capability 8.9 or later")
    if wanted in ("auto", "int8", "fp8"):
        return torch.bfloat16 if device == "cuda" else torch.float32
    if device == "cpu" and wanted != "float32" and not (wanted == "bfloat16" and native_bfloat16()):
        logger.warning("%s on a CPU without native support is very slow", wanted)
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 by itself (AVX-512 BF16 or AMX)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)
