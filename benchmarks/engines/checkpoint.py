"""Random reward models to measure with: all competitors load the same directory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from polar_ray.model import ModelConfig, RewardModel, load_config, save_model
from polar_ray.planning.cost import Shape

VOCABULARY = 92544
"""InternLM2's, so that its tokenizer's ids fit."""

SHAPES: dict[str, dict[str, Any]] = {
    "prototype": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
    "1.8B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
    "7B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}

CONFIG_CLASS = '''"""What servers need to read this checkpoint's config.json."""

from transformers import PretrainedConfig


class InternLM2Config(PretrainedConfig):
    """Its fields are those of config.json."""

    model_type = "internlm2"

    def __init__(self, rope_theta=10000, rope_scaling=None, **others):
        # As InternLM's own class: given on, transformers 5 would merge them, which sglang ignores.
        self.rope_theta = rope_theta
        self.rope_scaling = rope_scaling
        super().__init__(**others)
'''


def make_checkpoint(
    folder: Path,
    shape: str,
    *,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A checkpoint directory with random weights of a named shape, which foreign engines read too.

    Weights keep their input's size (deviation 1/sqrt of the inputs), so scores spread by about 1.
    """
    config = ModelConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=32768,
        reward_token_id=92527,
        rope_theta=1e6,
        **SHAPES[shape],
    )
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = RewardModel(config).to(dtype)
    model = model.to_empty(device=device)
    for name, tensor in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.ones_(tensor)
        else:
            fan_in = 1 if "embeddings" in name else tensor.shape[1]
            torch.nn.init.normal_(tensor, std=1 / math.sqrt(fan_in))
    save_model(model, folder)
    make_readable(folder)
    return folder


def make_readable(folder: Path) -> None:
    """Adds to a checkpoint what foreign engines want of it beside its weights."""
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["pad_token_id"] = 2  # as POLAR's; sglang wants one
    values["auto_map"] = {"AutoConfig": "configuration_internlm2.InternLM2Config"}
    path.write_text(json.dumps(values), encoding="utf-8")
    (folder / "configuration_internlm2.py").write_text(CONFIG_CLASS, encoding="utf-8")
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        values = json.loads(tokenizer.read_text(encoding="utf-8"))
        values["tokenizer_class"] = "PreTrainedTokenizerFast"  # one that vllm knows
        tokenizer.write_text(json.dumps(values), encoding="utf-8")


def shape_of(folder: Path) -> Shape:
    """What of a checkpoint's shape decides its cost."""
    values = load_config(folder).model_dump()
    return Shape(**{name: values[name] for name in Shape.__slots__})
