"""The checkpoint that a config names: where it is, and whether a scorer could be built from it.

Knows what must fit together (config, tokenizer, weights' headers, engine); loads no weights.
"""

from __future__ import annotations

from pathlib import Path

from polar_ray.assets import builtin_model_dir
from polar_ray.config import ScorerConfig
from polar_ray.encoding import Encoder, Tokenizer, limits, load_tokenizer
from polar_ray.engine import check_engine
from polar_ray.errors import ConfigError
from polar_ray.hub import fetch, is_name
from polar_ray.model.config import load_config


def model_dir(model: str | None) -> Path:
    """The checkpoint directory that a config's `model` means: itself, where a hub's model of this
    name is kept once it has been fetched, or the built-in."""
    if model is None:
        return builtin_model_dir()
    if not model:
        raise ConfigError("model='' names no directory; leave it out for the built-in model")
    if is_name(model):
        return fetch(model)
    folder = Path(model)
    if not folder.is_dir():
        raise ConfigError(
            f"model={model!r} is not a directory, nor a model's name on a hub (OWNER/NAME or "
            "OWNER/NAME@REVISION)"
        )
    return folder


def check(config: ScorerConfig) -> Path:
    """The checkpoint directory of a config, after a look at all that can be wrong with it: its
    config, tokenizer, and the headers of its weights. Loads nothing and needs no device.

    Raises `ConfigError` as `Scorer` would.
    """
    folder = model_dir(config.model)
    shape = load_config(folder)
    build_encoder(
        config,
        load_tokenizer(folder),
        vocab_size=shape.vocab_size,
        window=shape.window,
        reward_id=shape.reward_token_id,
    )
    check_engine(config.engine, folder)
    return folder


def check_if_visible(config: ScorerConfig) -> None:
    """`check`, where the checkpoint can be seen from here: its folder, or where it should be. Other
    machines may have it where this one has nothing; what a hub has is for them to fetch."""
    if config.model is None:
        return
    folder = Path(config.model)
    if folder.is_dir() or (folder.is_absolute() and folder.parent.is_dir()):
        check(config)


def build_encoder(
    config: ScorerConfig,
    tokenizer: Tokenizer,
    *,
    vocab_size: int,
    window: int | None,
    reward_id: int,
) -> Encoder:
    """The encoder of a checkpoint; `ConfigError` if its tokenizer has more ids than the model."""
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"{config.model}: the tokenizer has {tokenizer.vocab_size} ids, the model {vocab_size}"
        )
    encoder = Encoder(
        tokenizer,
        limits(config.encoding, window),
        reward_id=reward_id,
        max_field_bytes=config.encoding.max_field_bytes,
    )
    for name, number in encoder.placed.items():
        if number >= vocab_size:
            raise ConfigError(
                f"{config.model}: the {name} token has id {number}, the model {vocab_size} ids"
            )
    return encoder
