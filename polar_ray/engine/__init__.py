"""Packs to scores. `build_engine` imports an engine's libraries only when it is asked for."""

from pathlib import Path

from polar_ray.config import EngineConfig, NativeEngineConfig
from polar_ray.engine.protocol import Engine, ModelInfo

__all__ = ["Engine", "ModelInfo", "build_engine"]


def build_engine(config: EngineConfig, model_dir: Path) -> Engine:
    """The engine that `config` describes, with the model of `model_dir` loaded."""
    if isinstance(config, NativeEngineConfig) and config.tensor_parallel_size > 1:
        from polar_ray.engine.ranks import RankedEngine

        return RankedEngine(config, model_dir)
    if isinstance(config, NativeEngineConfig):
        from polar_ray.engine.native import NativeEngine

        return NativeEngine(config, model_dir)
    from polar_ray.engine.stub import StubEngine

    return StubEngine(config, model_dir)
