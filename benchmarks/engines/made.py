"""Models without files of weights: a config.json, and weights made where they are needed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from zlib import crc32

import torch
from torch import Tensor

from engines.checkpoint import SHAPES, VOCABULARY
from polar_ray.engine import native
from polar_ray.model import ModelConfig, RewardModel, weights
from polar_ray.model.config import to_json

Make = Callable[[str, tuple[int, ...]], Tensor]
"""The weight of this name and shape."""


def config_alone(folder: Path, shape: str, **changes: Any) -> Path:
    """A checkpoint directory of a named shape with nothing but its config.json."""
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 32768,
        "reward_token_id": 92527,
        "rope_theta": 1e6,
        **SHAPES[shape],
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = ModelConfig(**{**values, **changes})
    (folder / "config.json").write_text(json.dumps(to_json(config)), encoding="utf-8")
    return folder


@contextmanager
def made_by(make: Make) -> Iterator[None]:
    """Within, engines load what `make` makes for the directories of `config_alone`."""
    real_headers, real_tensors = weights._headers, weights._tensors

    def alone(folder: Path) -> bool:
        return not any(folder.glob("*.safetensors"))

    def headers(folder: Path) -> Iterator[tuple[str, tuple[int, ...], str, Path]]:
        if not alone(folder):
            yield from real_headers(folder)
            return
        for name, shape in _shapes(folder).items():
            yield name, shape, "BF16", folder / "model.safetensors"

    def tensors(folder: Path) -> Iterator[tuple[str, Tensor, Path | None]]:
        if not alone(folder):
            yield from real_tensors(folder)
            return
        for name, shape in _shapes(folder).items():
            yield name, make(name, shape), None

    with (
        mock.patch.object(weights, "_headers", headers),
        mock.patch.object(weights, "_tensors", tensors),
        mock.patch.object(native, "digest", return_value="made"),
    ):
        yield


def random_weights(device: str, dtype: torch.dtype = torch.bfloat16) -> Make:
    """Weights that keep their input's size, the same whenever those of a name are made."""

    def make(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=dtype, device=device)
        random = torch.Generator(device).manual_seed(crc32(name.encode()))
        fan_in = 1 if "embeddings" in name else shape[1]
        tensor = torch.empty(shape, dtype=dtype, device=device)
        return tensor.normal_(std=1 / math.sqrt(fan_in), generator=random)

    return make


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = RewardModel(weights.load_config(folder)).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
