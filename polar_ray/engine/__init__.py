"""Packs to scores. These functions import an engine's libraries only when it is asked for."""

import logging
from pathlib import Path

from polar_ray.config import (
    EngineConfig,
    NativeEngineConfig,
    RemoteEngineConfig,
    SGLangEngineConfig,
)
from polar_ray.engine.protocol import Engine, ModelInfo
from polar_ray.model.config import load_config

__all__ = ["Engine", "ModelInfo", "build_engine", "check_engine", "fits_beside", "prepare"]

logger = logging.getLogger(__name__)


def build_engine(
    config: EngineConfig, model_dir: Path, *, in_place_of: Engine | None = None
) -> Engine:
    """The engine that `config` describes, with the model of `model_dir` loaded.

    `in_place_of`: an engine that is not needed any more. It is this one, where it can take the
    model's weights as it runs, or it is closed before anything is loaded.
    """
    if in_place_of is not None:
        if _takes(in_place_of, config, model_dir):
            return in_place_of
        in_place_of.close()
    if isinstance(config, SGLangEngineConfig):
        from polar_ray.engine.sglang.engine import SGLangEngine

        return SGLangEngine(config, model_dir)
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


def _takes(engine: Engine, config: EngineConfig, model_dir: Path) -> bool:
    """Whether a running engine has taken the weights of `model_dir`."""
    if not isinstance(config, SGLangEngineConfig):
        return False
    from polar_ray.engine.sglang.engine import SGLangEngine

    if not isinstance(engine, SGLangEngine):
        return False
    try:
        return engine.take(config, model_dir)
    except Exception as error:  # whatever it is, a new process is in no doubt about its weights
        logger.warning("sglang starts anew for %s: %s", model_dir, error)
        return False


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
    elif isinstance(config, SGLangEngineConfig):
        from polar_ray.engine.sglang.engine import check

        check(config, model_dir)


def prepare(config: EngineConfig, model_dir: Path) -> None:
    """Does what can be done before a model takes another's place: reads every byte of it, and asks
    the native engine for its known answers where the engine is checked by them. Raises `OSError`
    or `ConfigError` where that fails."""
    from polar_ray.model.weights import digest

    digest(model_dir)
    if isinstance(config, SGLangEngineConfig):
        from polar_ray.engine.known_answers import known_answers

        known_answers(model_dir)


def fits_beside(config: EngineConfig, model_dir: Path) -> bool:
    """Whether this engine fits into memory beside the one that this process has; `ConfigError` if
    it would not fit even in the other's place. sglang takes other weights in place, in far less
    time than another would take to start."""
    if isinstance(config, NativeEngineConfig):
        from polar_ray.engine.memory import fits_beside as decide

        return decide(config, model_dir)
    return not isinstance(config, SGLangEngineConfig)
