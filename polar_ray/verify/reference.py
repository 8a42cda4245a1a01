"""A second opinion: transformers' LlamaModel on the same weights, one record at a time.

InternLM2 is Llama with a fused projection. Its published modelling code has the same structure, but
leaves its rotary table uninitialised on current transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polar_ray.engine.protocol import Scores
from polar_ray.model import ModelConfig, RewardModel, load_model
from polar_ray.planning import Ids
from polar_ray.verify.check import Skip


class LlamaReference:
    """Scores of a checkpoint directory in float32 through transformers."""

    def __init__(self, model_dir: Path) -> None:
        model = load_model(model_dir, dtype=torch.float32)
        self._head = model.v_head
        self._llama = as_llama(model)

    @torch.inference_mode()
    def score(self, ids: Sequence[Ids]) -> Scores:
        """float32 [records]"""
        scores = np.empty(len(ids), dtype=np.float32)
        # With dynamic RoPE, LlamaModel keeps the largest length that it has seen: shortest first.
        for at in sorted(range(len(ids)), key=lambda i: len(ids[i])):
            tokens = torch.from_numpy(ids[at].astype(np.int64))[None]
            states = self._llama(tokens, use_cache=False).last_hidden_state
            scores[at] = self._head(states[0, -1]).item()
        return scores


def as_llama(model: RewardModel) -> Any:
    """The same weights as a `LlamaModel` in eval mode; the fused projection is taken apart."""
    try:
        from transformers import LlamaConfig, LlamaModel
    except ImportError as error:
        raise Skip(f"needs transformers: pip install transformers ({error})") from None
    c = model.config
    config = LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads,
        max_position_embeddings=c.max_position_embeddings,
        rms_norm_eps=c.rms_norm_eps,
        attention_bias=c.bias,
        attn_implementation="sdpa",
        **_rope(c),
    )
    llama = LlamaModel(config)  # not on the meta device: its rotary buffer is in no checkpoint
    llama.load_state_dict(_renamed(model), assign=True)
    return llama.eval().requires_grad_(False)


def _rope(c: ModelConfig) -> dict[str, Any]:
    """RoPE as transformers 4 and 5 take it."""
    import transformers

    kind = "default" if c.rope_kind == "none" else c.rope_kind
    scaling: dict[str, Any] = {"rope_type": kind}
    if kind != "default":
        scaling["factor"] = c.rope_factor
    if int(transformers.__version__.partition(".")[0]) >= 5:
        return {"rope_parameters": {**scaling, "rope_theta": c.rope_theta}}
    old = None if kind == "default" else scaling
    return {"rope_theta": c.rope_theta, "rope_scaling": old}


def _renamed(model: RewardModel) -> dict[str, torch.Tensor]:
    c = model.config
    group = c.num_attention_heads // c.num_key_value_heads
    state = model.state_dict()
    renamed = {
        "embed_tokens.weight": state["model.tok_embeddings.weight"],
        "norm.weight": state["model.norm.weight"],
    }
    same = {
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[:2] != ["model", "layers"]:
            continue
        layer, module, kind = f"layers.{parts[2]}.", ".".join(parts[3:-1]), parts[-1]
        if module != "attention.wqkv":
            renamed[f"{layer}{same[module]}.{kind}"] = tensor
            continue
        fused = tensor.unflatten(0, (c.num_key_value_heads, -1, c.head_dim))
        renamed[f"{layer}self_attn.q_proj.{kind}"] = fused[:, :group].flatten(0, 2)
        renamed[f"{layer}self_attn.k_proj.{kind}"] = fused[:, group].flatten(0, 1)
        renamed[f"{layer}self_attn.v_proj.{kind}"] = fused[:, group + 1].flatten(0, 1)
    return renamed
