"""The shape of an InternLM2 reward model, read from a checkpoint's config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from polar_ray.config_base import show
from polar_ray.errors import ConfigError
from polar_ray.json_object import parse, read_object

ARCHITECTURE = "InternLM2ForRewardModel"
RopeKind = Literal["none", "linear", "dynamic"]
Heads = Annotated[int, Field(ge=1, le=1 << 12)]


class ModelConfig(BaseModel):
    """Field names are those of config.json, except for the RoPE scaling, which is flat here.

    Bounds are many times what any model has: they keep a wrong file from costing memory or time.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    vocab_size: Annotated[int, Field(ge=1, le=1 << 20)]
    hidden_size: Annotated[int, Field(ge=2, le=1 << 17)]
    intermediate_size: Annotated[int, Field(ge=1, le=1 << 20)]
    num_hidden_layers: Annotated[int, Field(ge=1, le=1 << 10)]
    num_attention_heads: Heads
    num_key_value_heads: Heads
    max_position_embeddings: Annotated[int, Field(ge=2, le=1 << 24)]
    """Positions are float32 in the angles, which are exact up to 2^24."""

    reward_token_id: int
    bias: bool = False
    rms_norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-5
    rope_theta: Annotated[float, Field(ge=1, le=1e15)] = 10000.0
    rope_kind: RopeKind = "none"
    rope_factor: Annotated[float, Field(ge=1, le=1 << 16)] = 1.0

    @model_validator(mode="after")
    def _fits_together(self) -> ModelConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is no multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        # RoPE turns pairs of dimensions; dynamic scaling needs a second pair to stretch.
        if self.head_dim % 2 or (self.rope_kind == "dynamic" and self.head_dim == 2):
            raise ValueError(
                f"hidden_size={self.hidden_size} over num_attention_heads="
                f"{self.num_attention_heads} gives heads of {self.head_dim}, which RoPE "
                f"({self.rope_kind}) cannot turn"
            )
        if not 0 <= self.reward_token_id < self.vocab_size:
            raise ValueError(
                f"reward_token_id={self.reward_token_id} is outside the vocabulary of "
                f"{self.vocab_size}"
            )
        return self

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
    raw = read_object(path)
    names = raw.get("architectures")
    if not isinstance(names, list) or ARCHITECTURE not in names:
        raise ConfigError(f"{path} is for {show(names)}; polar_ray scores with {ARCHITECTURE}")
    if raw.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"{path}: hidden_act={show(raw['hidden_act'])}; InternLM2 uses 'silu'")
    if "rope_parameters" in raw and "rope_theta" not in raw:
        raise ConfigError(
            f"{path} has rope_parameters, as transformers 5 writes it, and no rope_theta; write "
            "rope_theta and rope_scaling, as InternLM2's own config.json has them"
        )
    if raw.get("quantization_config") is not None:
        raise ConfigError(
            f"{path} has a quantization_config: such weights are not read; give the checkpoint "
            "that was quantized, with engine.dtype=int8 or fp8"
        )
    values = {name: raw[name] for name in ModelConfig.model_fields if raw.get(name) is not None}
    values.setdefault("num_key_value_heads", values.get("num_attention_heads"))
    config = parse(ModelConfig, {**values, **_rope(raw, path)}, path)
    if raw.get("head_dim", config.head_dim) not in (None, config.head_dim):
        raise ConfigError(
            f"{path}: head_dim={show(raw['head_dim'])}, but hidden_size over num_attention_heads "
            f"is {config.head_dim}"
        )
    return config


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `load_config` reads back as `config`."""
    values = config.model_dump()
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


def _rope(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    scaling = raw.get("rope_scaling")
    if scaling is None:
        return {"rope_kind": "none", "rope_factor": 1.0}
    if not isinstance(scaling, dict):
        raise ConfigError(f"{path}: rope_scaling={show(scaling)} is no object with type and factor")
    kind = scaling.get("type", scaling.get("rope_type"))
    if scaling.get("rope_type", kind) != kind:
        raise ConfigError(
            f"{path}: rope_scaling is both of type {show(kind)} and of rope_type "
            f"{show(scaling['rope_type'])}"
        )
    if kind not in ("linear", "dynamic"):
        raise ConfigError(
            f"{path}: rope_scaling type {show(kind)}; known are 'linear' and 'dynamic'"
        )
    return {"rope_kind": kind, "rope_factor": scaling.get("factor")}
