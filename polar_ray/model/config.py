"""The shape of an InternLM2 reward model, read from a checkpoint's config.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from polar_ray.errors import ConfigError

ARCHITECTURE = "InternLM2ForRewardModel"
RopeKind = Literal["none", "linear", "dynamic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Field names are those of config.json, except for the RoPE scaling, which is flat here."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    reward_token_id: int
    bias: bool = False
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_kind: RopeKind = "none"
    rope_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size={self.hidden_size} is no multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads={self.num_attention_heads} is no multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if not 0 <= self.reward_token_id < self.vocab_size:
            raise ConfigError(
                f"reward_token_id={self.reward_token_id} is outside the vocabulary of "
                f"{self.vocab_size}"
            )

    @property
    def head_dim(self) -> int:
        """Dimensions of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def scaled_above(self) -> int | None:
        """Length above which a record's angles depend on its length; None where they never do."""
        return self.max_position_embeddings if self.rope_kind == "dynamic" else None

    @property
    def window(self) -> int | None:
        """Positions that the model was made for; None where RoPE scaling stretches without end."""
        if self.rope_kind == "dynamic":
            return None
        return int(self.max_position_embeddings * self.rope_factor)


def load_config(model_dir: str | Path) -> ModelConfig:
    """The config of a checkpoint directory; `ConfigError` names what does not fit."""
    path = Path(model_dir) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path} is missing: {model_dir} is not a checkpoint directory")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(raw, dict) or ARCHITECTURE not in (raw.get("architectures") or []):
        found = raw.get("architectures") if isinstance(raw, dict) else raw
        raise ConfigError(f"{path} is for {found!r}; polar_ray scores with {ARCHITECTURE}")
    if raw.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"{path}: hidden_act={raw['hidden_act']!r}; InternLM2 uses 'silu'")
    kind, factor = _rope(raw, path)
    names = set(ModelConfig.__slots__) - {"rope_kind", "rope_factor"}
    values = {name: raw[name] for name in names if raw.get(name) is not None}
    values.setdefault("num_key_value_heads", values.get("num_attention_heads"))
    try:
        return ModelConfig(**values, rope_kind=kind, rope_factor=factor)
    except TypeError as error:
        raise ConfigError(f"{path} is incomplete: {error}") from None


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `load_config` reads back as `config`."""
    values = asdict(config)
    kind, factor = values.pop("rope_kind"), values.pop("rope_factor")
    scaling = None if kind == "none" else {"type": kind, "factor": factor}
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "internlm2",
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        **values,
        "rope_scaling": scaling,
    }


def _rope(raw: dict[str, Any], path: Path) -> tuple[RopeKind, float]:
    scaling = raw.get("rope_scaling")
    if not scaling:
        return "none", 1.0
    kind = scaling.get("type", scaling.get("rope_type"))
    if kind not in ("linear", "dynamic"):
        raise ConfigError(f"{path}: rope_scaling type {kind!r}; known are 'linear' and 'dynamic'")
    return kind, float(scaling.get("factor", 1.0))
