"""Packs to scores. These functions import an engine's libraries only when it is asked for."""

from pathlib import Path

from polar_ray.config import EngineConfig, NativeEngineConfig, RemoteEngineConfig
from polar_ray.engine.protocol import Engine, ModelInfo
from polar_ray.model.config import load_config

__all__ = ["Engine", "ModelInfo", "build_engine", "check_engine", "fits_beside", "read_through"]


def build_engine(config: EngineConfig, model_dir: Path) -> Engine:
    """The engine that `config` describes, with the model of `model_dir` loaded."""
    if isinstance(config, NativeEngineConfig) and config.tensor_parallel_size > 1:
        from polar_ray.engine.tensor_parallel import TensorParallelEngine

        return TensorParallelEngine(config, model_dir)
    if isinstance(config, NativeEngineConfig):
        from polar_ray.engine.native import NativeEngine

        return NativeEngine(config, model_dir)
    if isinstance(config, RemoteEngineConfig):
        from polar_ray.engine.remote.engine import RemoteEngine

        return RemoteEngine(config, model_dir)
    from polar_ray.engine.stub import StubEngine

    return StubEngine(config, model_dir)


def check_engine(config: EngineConfig, model_dir: Path) -> None:
    """Raises `ConfigError` where `build_engine` would for the files of `model_dir`, by their
    headers alone; needs no device."""
    if isinstance(config, NativeEngineConfig):
        from polar_ray.model.tensor_parallel import check_divisible
        from polar_ray.model.weights import check_model

        check_divisible(load_config(model_dir), config.tensor_parallel_size)
        check_model(model_dir)
    elif isinstance(config, RemoteEngineConfig):
        from polar_ray.model.weights import check_model

        check_model(model_dir)  # the known answers are made of them


def read_through(model_dir: Path) -> None:
    """Reads every byte of a checkpoint; raises `OSError` or `ConfigError` where that fails."""
    from polar_ray.model.weights import digest

    digest(model_dir)


def fits_beside(config: EngineConfig, model_dir: Path) -> bool:
    """Whether this engine fits into memory beside the one that this process has; `ConfigError` if
    it would not fit even in the other's place."""
    if isinstance(config, NativeEngineConfig):
        from polar_ray.engine.memory import fits_beside as decide

        return decide(config, model_dir)
    return True
