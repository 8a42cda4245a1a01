"""What is published of known models: their configs, and the few scores on POLAR's model cards.

Many a config fits the same weights: heads of another size, other rotary angles. Only published
numbers tell which is right, so a config is compared with what is known of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from polar_ray.assets import builtin_model_dir
from polar_ray.model import ModelConfig, load_config, weights_digest
from polar_ray.verify.check import Failed, Skip
from polar_ray.verify.samples import PROMPT

BESIDE_WEIGHTS = (
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "reward_token_id",
    "rms_norm_eps",
    "rope_theta",
    "rope_kind",
    "rope_factor",
)
"""What no shape of a weight shows: of the heads, only how many queries share a key."""

POLAR: dict[str, dict[str, Any]] = {
    "POLAR-7B": {
        "vocab_size": 92544,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "reward_token_id": 92527,
    },
    "POLAR-1_8B": {
        "vocab_size": 92544,
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "intermediate_size": 8192,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "reward_token_id": 92527,
    },
}
"""What the project knows of InternLM's models: neither the digests of their weights nor RoPE."""


class Published(NamedTuple):
    """Scores that stand on a model card; their order is the check, their values to 0.1 or so."""

    record: dict[str, str]
    score: float


POLAR_7B = [
    Published(
        {"prompt": PROMPT, "reference": "Beijing.", "output": "Beijing."}, -0.5702977776527405
    ),
    Published(
        {"prompt": PROMPT, "reference": "Beijing.", "output": "Shanghai."}, -11.030370712280273
    ),
]


def is_polar_7b(name: str, config: ModelConfig) -> bool:
    """Whether a directory says that it is the published, fine-tuned POLAR-7B."""
    own = name.rpartition("/")[2]  # without a hub's owner
    return like(config) == "POLAR-7B" and own.startswith("POLAR-7B") and "Base" not in own


def like(config: ModelConfig) -> str | None:
    """InternLM's model of this size, if there is one."""
    size = ("vocab_size", "hidden_size", "num_hidden_layers")
    return next(
        (
            name
            for name, known in POLAR.items()
            if all(getattr(config, k) == known[k] for k in size)
        ),
        None,
    )


def has_builtin_weights(folder: Path) -> bool:
    """Whether the weights are those of the model that this project publishes."""
    return weights_digest(folder) == weights_digest(builtin_model_dir())


def compare(folder: Path) -> str:
    """The config of a checkpoint with the published one of its weights, as far as that is known."""
    config = load_config(folder)
    if has_builtin_weights(folder):
        _equal(config, load_config(builtin_model_dir()).model_dump(), "with these weights")
        return f"every value as published with these weights, {builtin_model_dir().name}"
    name = like(config)
    if name is None:
        raise Skip(f"nothing is published here of weights {weights_digest(folder)[:12]}")
    _equal(config, POLAR[name], f"of {name}, which has this size")
    return (
        f"{', '.join(POLAR[name])} as published of {name}, which has this size; the digest of its "
        f"published weights is not known here (these: {weights_digest(folder)[:12]})"
    )


def beside_weights(folder: Path, *, proven: bool) -> str:
    """The values that could be others with the same weights; `proven` where published numbers came
    out right with them."""
    config = load_config(folder)
    said = ", ".join(f"{name}={getattr(config, name)}" for name in BESIDE_WEIGHTS)
    if proven or has_builtin_weights(folder):
        return f"published numbers agree with {said}"
    raise Skip(
        f"no check above would notice another value of {said}. Compare them with the config.json "
        "that was published, or give published scores with --golden"
    )


def _equal(config: ModelConfig, published: Mapping[str, Any], whose: str) -> None:
    wrong = [
        f"{name}={getattr(config, name)!r}, but {value!r} as published {whose}"
        for name, value in published.items()
        if getattr(config, name) != value
    ]
    if wrong:
        raise Failed("; ".join(wrong))
