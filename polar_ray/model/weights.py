"""Checkpoint directories to models and back: safetensors only, no code, no pickle.

Weights are mapped from the files, not copied; a tensor is copied only where its dtype or device
changes. What is missing, extra, misshapen or cut off is a `ConfigError` that names it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from polar_ray.errors import ConfigError
from polar_ray.model.config import load_config, to_json
from polar_ray.model.internlm2 import RewardModel
from polar_ray.model.tensor_parallel import part_of

INDEX = "model.safetensors.index.json"


def load_model(
    model_dir: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    rank: int = 0,
    world_size: int = 1,
) -> RewardModel:
    """The model of a checkpoint directory in eval mode; `dtype` None keeps the files' own.

    Of `world_size` > 1, only the part of `rank` (`polar_ray.model.tensor_parallel`).
    """
    folder = Path(model_dir)
    check_model(folder)
    model = _on_meta(folder)
    loaded: dict[str, Tensor] = {}
    for name, tensor in _tensors(folder):
        part = part_of(name, tensor, rank, world_size)
        loaded[name] = part.to(device=device, dtype=dtype)
    for name, tensor in loaded.items():
        # Not load_state_dict: a rank's part has another shape than the whole.
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, Parameter(tensor, requires_grad=False))
    return model.eval()


def check_model(model_dir: str | Path) -> int:
    """How many weights a checkpoint directory holds, by the headers of its files alone.

    Raises `ConfigError` for all that `load_model` would, but for bytes that cannot be read.
    """
    folder = Path(model_dir)
    expected = {name: tuple(x.shape) for name, x in _on_meta(folder).state_dict().items()}
    found: set[str] = set()
    for name, shape, dtype, path in _headers(folder):
        if name not in expected:
            raise ConfigError(f"{path} holds {name!r}, which this model does not have")
        if name in found:
            raise ConfigError(f"{path} holds {name!r} a second time")
        if shape != expected[name]:
            raise ConfigError(
                f"{path}: {name!r} has shape {shape}, config.json asks for {expected[name]}"
            )
        if not dtype.startswith(("F", "BF")):
            raise ConfigError(f"{path}: {name!r} is {dtype}, not a floating-point tensor")
        found.add(name)
    if missing := sorted(expected.keys() - found):
        raise ConfigError(f"{folder} lacks {len(missing)} tensor(s): {', '.join(missing[:5])}")
    return sum(math.prod(shape) for shape in expected.values())


def _on_meta(folder: Path) -> RewardModel:
    """The model without weights."""
    with torch.device("meta"):
        return RewardModel(load_config(folder))


def save_model(
    model: RewardModel, model_dir: str | Path, *, dtype: torch.dtype | None = None
) -> None:
    """Writes config.json and model.safetensors; tokenizer files are the caller's."""
    folder = Path(model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(to_json(model.config), indent=2)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    state = {
        name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def digest(model_dir: str | Path, *extra: str) -> str:
    """Hex sha256 over config, weights and tokenizer files and `extra`: what makes a score."""
    folder = Path(model_dir)
    total = hashlib.sha256()
    names = ["config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json"]
    paths = [folder / name for name in names] + weight_files(folder)
    for path in paths:
        if path.is_file():
            total.update(path.name.encode())
            status = path.stat()
            total.update(_file_digest(path, status.st_size, status.st_mtime_ns))
    for text in extra:
        total.update(text.encode() + b"\0")
    return total.hexdigest()


@lru_cache(maxsize=1024)
def _file_digest(path: Path, size: int, mtime_ns: int) -> bytes:
    """Computed once for each state of a file: a model is read through before an update drops the
    one before it, and again when it is loaded."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            total.update(chunk)
    return total.digest()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sharded or not; `ConfigError` where there are none."""
    index = folder / INDEX
    if index.is_file():
        try:
            named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            paths = [folder / name for name in sorted(set(named))]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ConfigError(f"{index} is not an index of weights: {error!r}") from None
        if outside := [path for path in paths if path.parent != folder]:
            raise ConfigError(f"{index} names {outside[0].name!r} outside its folder")
    else:
        paths = [folder / "model.safetensors"]
    for path in paths:
        if not path.is_file():
            hint = (
                "; pickle files (.bin, .pt) are never loaded" if any(folder.glob("*.bin")) else ""
            )
            raise ConfigError(f"{path} is missing{hint}")
    return paths


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in weight_files(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                yield name, file.get_tensor(name)


def _headers(folder: Path) -> Iterator[tuple[str, tuple[int, ...], str, Path]]:
    """Name, shape and dtype ("BF16") of each tensor, and where it is."""
    for path in weight_files(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                header = file.get_slice(name)
                yield name, tuple(header.get_shape()), header.get_dtype(), path


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, whose errors are `ConfigError`s while it is read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError, RuntimeError) as error:
        way_out = ""
        if path.is_symlink():  # as in a hub's cache, which keeps what it has
            way_out = f". Delete {path.resolve()}: a model by name is then fetched again"
        raise ConfigError(
            f"{path} is damaged or not a safetensors file: {error}{way_out}"
        ) from None
