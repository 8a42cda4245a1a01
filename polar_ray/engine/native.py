"""polar_ray's own engine: the torch model on one device, one packed forward at a time."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.protocol import ModelInfo, Scores
from polar_ray.errors import ConfigError, EngineError
from polar_ray.model import digest, load_config, load_model
from polar_ray.model.attention import BlockedAttention
from polar_ray.planning import Pack

logger = logging.getLogger(__name__)


class NativeEngine:
    """Scores with `polar_ray.model` on a CPU or a CUDA device."""

    name = "native"

    def __init__(self, config: NativeEngineConfig, model_dir: Path) -> None:
        self.device = choose_device(config.device)
        dtype = choose_dtype(config.dtype, self.device)
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        shape = load_config(model_dir)
        self.model = load_model(model_dir, dtype=dtype, device=self.device)
        dtype_name = str(dtype).removeprefix("torch.")
        self.info = ModelInfo(
            name=model_dir.name,
            digest=digest(model_dir, dtype_name),
            reward_id=shape.reward_token_id,
            window=shape.window,
            scaled_above=shape.scaled_above,
            vocab_size=shape.vocab_size,
            dtype=dtype_name,
        )
        logger.info("loaded %s on %s in %s", model_dir, self.device, dtype_name)

    @torch.inference_mode()
    def score(self, pack: Pack) -> Scores:
        """One forward pass over the pack."""
        try:
            scores = self.model(
                torch.from_numpy(pack.ids).to(self.device).long(),
                torch.from_numpy(pack.positions).to(self.device),
                BlockedAttention(pack.spans, pack.ends.tolist()),
                torch.from_numpy(pack.ends).to(self.device),
                torch.from_numpy(pack.lengths).to(self.device),
            )
        except RuntimeError as error:
            raise EngineError(f"a pack of {pack.num_tokens} tokens failed: {error}") from error
        out: Scores = scores.float().cpu().numpy()
        return out

    def close(self) -> None:
        """Drops the weights."""
        del self.model


def choose_device(wanted: str) -> str:
    """auto is cuda where there is one; asking for a missing device is a `ConfigError`."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("engine.device=cuda, but torch sees no CUDA device; use cpu or auto")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def choose_dtype(wanted: str, device: str) -> torch.dtype:
    """auto is bfloat16 on cuda and float32 on a CPU, whatever the checkpoint is stored in.

    16-bit arithmetic is some hundred times slower than float32 on most CPUs.
    """
    if wanted == "auto":
        return torch.bfloat16 if device == "cuda" else torch.float32
    if wanted != "float32" and device == "cpu":
        logger.warning("%s on a CPU without native support is very slow", wanted)
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype
