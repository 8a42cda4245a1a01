"""transformers as POLAR's users run it: right-padded batches, the value head on every token.

InternLM2 is Llama with a fused projection, so `LlamaModel` runs the same weights; POLAR's own
modelling code has the same structure, but does not run on current transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from engines.workloads import BATCH
from polar_ray.engine.protocol import Scores
from polar_ray.model import RewardModel, load_model
from polar_ray.model.flops import count_flops
from polar_ray.planning import Ids


class Transformers:
    """Padded batches of 8, in arrival order or sorted by length."""

    def __init__(self, model_dir: Path, *, by_length: bool) -> None:
        model = load_model(model_dir, dtype=torch.float32)
        self.head = model.v_head
        self.llama = as_llama(model)
        self.by_length = by_length

    @torch.inference_mode()
    def score(self, ids: Sequence[Ids]) -> Scores:
        """float32 [records]"""
        scores = np.empty(len(ids), dtype=np.float32)
        for chosen in self._batches(ids):
            tokens, mask = pad([ids[i] for i in chosen])
            states = self.llama(tokens, attention_mask=mask, use_cache=False).last_hidden_state
            last = mask.sum(dim=1, keepdim=True) - 1
            scores[chosen] = self.head(states)[..., 0].gather(1, last)[:, 0].numpy()
        return scores

    def tokens(self, ids: Sequence[Ids]) -> int:
        """Tokens computed, padding included."""
        return sum(len(b) * max(len(ids[i]) for i in b) for b in self._batches(ids))

    def flops(self, ids: Sequence[Ids]) -> int:
        """Executed operations: those of one layer, counted, times the layers, which are alike."""
        layers, config = self.llama.config.num_hidden_layers, self.llama.config
        head = 2 * config.hidden_size * self.tokens(ids)
        config.num_hidden_layers = 1
        try:
            counted = count_flops(lambda: self.score(ids))
        finally:
            config.num_hidden_layers = layers
        return (counted - head) * layers + head

    def _batches(self, ids: Sequence[Ids]) -> list[list[int]]:
        order = list(range(len(ids)))
        if self.by_length:
            order.sort(key=lambda i: len(ids[i]))
        return [order[at : at + BATCH] for at in range(0, len(order), BATCH)]


def pad(ids: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Right-padded ids and their mask, both int64 [batch, longest]."""
    shape = (len(ids), max(map(len, ids)))
    tokens, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, one in enumerate(ids):
        tokens[row, : len(one)] = one
        mask[row, : len(one)] = 1
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def as_llama(model: RewardModel) -> LlamaModel:
    """The same weights as a `LlamaModel` in eval mode; the fused projection is taken apart."""
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
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        attn_implementation="sdpa",  # type: ignore[call-arg]
    )
    renamed = {
        "embed_tokens.weight": model.model.tok_embeddings.weight,
        "norm.weight": model.model.norm.weight,
    }
    group = c.num_attention_heads // c.num_key_value_heads
    for number, layer in enumerate(model.model.blocks):
        fused = layer.attention.wqkv.weight.unflatten(0, (c.num_key_value_heads, -1, c.head_dim))
        attention, mlp = f"layers.{number}.self_attn.", f"layers.{number}.mlp."
        renamed |= {
            attention + "q_proj.weight": fused[:, :group].flatten(0, 2),
            attention + "k_proj.weight": fused[:, group].flatten(0, 1),
            attention + "v_proj.weight": fused[:, group + 1].flatten(0, 1),
            attention + "o_proj.weight": layer.attention.wo.weight,
            mlp + "gate_proj.weight": layer.feed_forward.w1.weight,
            mlp + "down_proj.weight": layer.feed_forward.w2.weight,
            mlp + "up_proj.weight": layer.feed_forward.w3.weight,
            f"layers.{number}.input_layernorm.weight": layer.attention_norm.weight,
            f"layers.{number}.post_attention_layernorm.weight": layer.ffn_norm.weight,
        }
    llama = LlamaModel(config)  # not on the meta device: its rotary buffer is in no checkpoint
    llama.load_state_dict(renamed, assign=True)
    llama.requires_grad_(False).train(False)
    return llama
