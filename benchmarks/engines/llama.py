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

from engines.flops import count_flops
from engines.workloads import BATCH
from polar_ray.engine.protocol import Scores
from polar_ray.model import load_model
from polar_ray.planning import Ids
from polar_ray.verify.reference import as_llama


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
