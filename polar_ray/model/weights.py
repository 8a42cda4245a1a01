"""Checkpoint directories to models and back: safetensors only, no code, no pickle.

Weights are mapped from the files, not copied; a tensor is copied only where its dtype or device
changes. `RewardModel.files` are those that are mapped. What is missing, extra, misshapen or cut off
is a `ConfigError` that names it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
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
from polar_ray.json_object import read_object
from polar_ray.model.config import ModelConfig, load_config, to_json
from polar_ray.model.internlm2 import RewardModel
from polar_ray.model.tensor_parallel import part_of

INDEX = "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")
"""Those that are the numbers themselves; narrower ones need scales that this model has not."""

LONGEST_HEADER = 8 << 20
"""Bytes of a safetensors header: POLAR-7B has some ten thousand in each file."""

_FILE_NAME = re.compile(r"[\w-][\w.-]{0,199}\.safetensors", re.ASCII)


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
    model = _on_meta(load_config(folder))
    loaded: dict[str, Tensor] = {}
    for name, tensor, path in _tensors(folder):
        part = part_of(name, tensor, rank, world_size)
        loaded[name] = part.to(device=device, dtype=dtype)
        if loaded[name] is part and path is not None:
            model.files.add(path)
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
    expected = _shapes(load_config(folder))
    found: dict[str, str] = {}
    for name, shape, dtype, path in _headers(folder):
        if name not in expected:
            raise ConfigError(f"{path} holds {name!r:.200}, which this model does not have")
        if name in found:
            raise ConfigError(f"{path} holds {name!r} a second time")
        if shape != expected[name]:
            raise ConfigError(
                f"{path}: {name!r} has shape {shape}, config.json asks for {expected[name]}"
            )
        if dtype not in DTYPES:
            raise ConfigError(
                f"{path}: {name!r} is {dtype}, not a floating-point tensor ({', '.join(DTYPES)})"
            )
        found[name] = path.name
    if missing := sorted(expected.keys() - found):
        raise ConfigError(f"{folder} lacks {len(missing)} tensor(s): {', '.join(missing[:5])}")
    for name, file in (_index(folder) or {}).items():
        if found.get(name) != file:
            where = f"it is in {found[name]}" if name in found else "this model does not have it"
            raise ConfigError(f"{folder / INDEX} places {name!r:.200} in {file!r}; {where}")
    return sum(math.prod(shape) for shape in expected.values())


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each weight, by name. Layers are alike, so one of them is made."""
    one_layer = _on_meta(config.model_copy(update={"num_hidden_layers": 1}))
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in one_layer.state_dict().items():
        layers = config.num_hidden_layers if name.startswith("model.layers.0.") else 1
        names = [name.replace(".0.", f".{layer}.", 1) for layer in range(layers)]
        shapes |= dict.fromkeys(names, tuple(tensor.shape))
    return shapes


def _on_meta(config: ModelConfig) -> RewardModel:
    """The model without weights."""
    with torch.device("meta"):
        return RewardModel(config)


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
    names = ["config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json"]
    total = hashlib.sha256(_names_and_digests([folder / name for name in names]))
    total.update(_names_and_digests(weight_files(folder)))
    for text in extra:
        total.update(text.encode() + b"\0")
    return total.hexdigest()


def weights_digest(model_dir: str | Path) -> str:
    """Hex sha256 over the files of weights alone: whose weights these are, whatever else lies
    beside them."""
    return hashlib.sha256(_names_and_digests(weight_files(Path(model_dir)))).hexdigest()


def _names_and_digests(paths: Sequence[Path]) -> bytes:
    """Of the files that there are."""
    stats = {path: path.stat() for path in paths if path.is_file()}
    return b"".join(
        path.name.encode()
        + _file_digest(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for path, status in stats.items()
    )


@lru_cache(maxsize=1024)
def _file_digest(path: Path, *state: int) -> bytes:
    """Computed once for each state of a file: a model is read through before an update drops the
    one before it, and again when it is loaded. A state has the time of the last change, which
    nobody can set, beside that of the last write, which copying sets."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            total.update(chunk)
    return total.digest()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sharded or not; `ConfigError` where there are none."""
    index = _index(folder)
    names = ["model.safetensors"] if index is None else sorted(set(index.values()))
    for name in names:
        if not (folder / name).is_file():
            hint = (
                "; pickle files (.bin, .pt) are never loaded" if any(folder.glob("*.bin")) else ""
            )
            raise ConfigError(f"{folder / name} is missing{hint}")
    return [folder / name for name in names]


def _index(folder: Path) -> dict[str, str] | None:
    """The file of each weight by a sharded checkpoint's index; None where there is no index."""
    path = folder / INDEX
    if not path.is_file():
        return None
    named = read_object(path).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise ConfigError(f"{path} is not an index of weights: weight_map must name files")
    for file in set(named.values()):
        if not _FILE_NAME.fullmatch(file):
            raise ConfigError(f"{path} names {file!r:.200}: outside its folder, or no safetensors")
    return named


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor, Path | None]]:
    """Each with the file from which it is mapped, if it is."""
    for name, _, _, path in _headers(folder):
        # Opened anew, so that each has a mapping of its own: its pages go when it is dropped.
        with _opened(path) as file:
            yield name, file.get_tensor(name), path


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
        with path.open("rb") as raw:
            if (length := int.from_bytes(raw.read(8), "little")) > LONGEST_HEADER:
                raise RuntimeError(f"its header would have {length} bytes")
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError, RuntimeError) as error:
        way_out = ""
        if path.is_symlink():  # as in a hub's cache, which keeps what it has
            way_out = f". Delete {path.resolve()}: a model by name is then fetched again"
        raise ConfigError(
            f"{path} is damaged or not a safetensors file: {error!s:.300}{way_out}"
        ) from None
