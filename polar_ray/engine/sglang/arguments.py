"""What sglang's process is started with: arguments and environment, as pure functions of settings.

Where they depend on the device, they stand under `on_cpu` and `on_cuda`: only sglang's own
environment knows what "auto" means there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polar_ray.config import SGLangEngineConfig
from polar_ray.errors import ConfigError
from polar_ray.model.config import ModelConfig

LONGEST = 16384 + 1024
"""Tokens of the longest record, where nobody says: POLAR's limit, and what a cut record may have
above it."""

ROOM = 8
"""Tokens by which sglang's own limits are above the longest record: it refuses what is as long as
`context_length`, and never answers to what fills `max_total_tokens`."""


def longest_record(config: SGLangEngineConfig, shape: ModelConfig) -> int:
    """Tokens of the longest record that sglang is to take."""
    window = LONGEST if shape.window is None else shape.window
    if config.context_length is None:
        return min(window, LONGEST)
    if config.context_length > window:
        raise ConfigError(
            f"engine.context_length={config.context_length} is over the model's window of {window}"
        )
    return config.context_length


def server_args(config: SGLangEngineConfig, shape: ModelConfig, view: Path) -> dict[str, Any]:
    """Arguments of `sglang.Engine`, but for `on_cpu` and `on_cuda`, of which one is taken."""
    longest = longest_record(config, shape)
    given = {
        "max_total_tokens": config.max_total_tokens,
        "mem_fraction_static": config.mem_fraction,
    }
    return {
        "on_cpu": {"attention_backend": "torch_native", "max_total_tokens": 2 * longest + ROOM},
        "on_cuda": {},
        **config.server_args,
        **{name: value for name, value in given.items() if value is not None},
        "model_path": str(view),
        "device": config.device,
        "dtype": config.dtype,
        "tp_size": config.tensor_parallel_size,
        "dp_size": config.data_parallel_size,
        "context_length": longest + ROOM,
        "is_embedding": True,
        "skip_tokenizer_init": True,
        "log_level": "info",  # of which `log.py` reads what the cache knew
    }


def environment(config: SGLangEngineConfig, own: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The process's environment: `own`, but for what is about this process's Python, and with all
    that is temporary within `folder`."""
    kept = {name: value for name, value in own.items() if not name.startswith("PYTHON")}
    if config.num_threads is not None:
        kept["OMP_NUM_THREADS"] = str(config.num_threads)
    return {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder / "modules"),
        # Ours is longer than the model's window by `ROOM`.
        "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1",
        "TMPDIR": str(folder),
    }
