"""InternLM2 with POLAR's reward head, on one device, in plain torch.

Parameter names are the checkpoint's own, so a state dict is a checkpoint. Scores one packed stream
at a time; knows nothing of text, padding or batching. Source of the architecture: the published
InternLM2 model card and configuration; numbers checked against golden/model.

Shape suffixes: T packed tokens, R records, D model dim, F feed-forward dim, N query heads,
K key/value heads, G query heads for each key/value head, H head dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polar_ray.model.attention import SpanTuple, attend, attend_ends
from polar_ray.model.config import ModelConfig

CPU_ROWS = 512
"""Tokens that a CPU takes through a layer's linear maps at once.

Enough for its matrix products; few enough that what lies between them stays in the cache, and that
the allocator uses the same memory again instead of asking for fresh pages.
"""

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, both [T, 1, H]."""


class Attention(nn.Module):
    """Grouped-query attention with a fused projection, interleaved by key/value head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        self.wqkv = nn.Linear(config.hidden_size, heads * self.head_dim, bias=config.bias)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def project(self, x_TD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [T, N, H], keys and values [T, K, H]."""
        # For each key/value head: its query heads, then k, then v.
        qkv_TKGH = self.wqkv(x_TD).unflatten(-1, (self.num_kv_heads, -1, self.head_dim))
        q_TNH = rotate(qkv_TKGH[:, :, :-2].flatten(1, 2), rotation)
        return q_TNH, rotate(qkv_TKGH[:, :, -2], rotation), qkv_TKGH[:, :, -1]

    def forward_ends(
        self,
        x_TD: Tensor,
        rotation: Rotation,
        spans: Sequence[SpanTuple],
        ends_R: Tensor,
    ) -> Tensor:
        """[R, D], before `wo`: keys and values of all tokens, queries of the ends alone."""
        q_RNH = self._project(x_TD[ends_R], slice(None, -2))
        kv_TKGH = self._project(x_TD, slice(-2, None)).unflatten(1, (self.num_kv_heads, 2))
        cos, sin = rotation
        q_RNH = rotate(q_RNH, (cos[ends_R], sin[ends_R]))
        k_TKH = rotate(kv_TKGH[:, :, 0], rotation)
        out_RNH = attend_ends(q_RNH, k_TKH, kv_TKGH[:, :, 1], spans, ends_R.tolist())
        return out_RNH.flatten(1)

    def _project(self, x_TD: Tensor, part: slice) -> Tensor:
        """Only some of the fused projection: `part` of what each key/value head has."""

        def rows(whole: Tensor) -> Tensor:
            split = whole.unflatten(0, (self.num_kv_heads, -1, self.head_dim))
            return torch.flatten(split[:, part], 0, 2)

        bias = None if self.wqkv.bias is None else rows(self.wqkv.bias)
        projected = F.linear(x_TD, rows(self.wqkv.weight), bias)
        return torch.unflatten(projected, -1, (-1, self.head_dim))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        wide, narrow = config.intermediate_size, config.hidden_size
        self.w1 = nn.Linear(narrow, wide, bias=False)
        self.w2 = nn.Linear(wide, narrow, bias=False)
        self.w3 = nn.Linear(narrow, wide, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        out_TD: Tensor = self.w2(F.silu(self.w1(x_TD)) * self.w3(x_TD))
        return out_TD


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.ffn_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x_TD: Tensor, rotation: Rotation, spans: Sequence[SpanTuple]) -> Tensor:
        projected = [
            self.attention.project(self.attention_norm(x), (cos, sin))
            for x, cos, sin in _chunks(x_TD, *rotation)
        ]
        q_TNH, k_TKH, v_TKH = map(_join, zip(*projected, strict=True))
        mixed_TD = attend(q_TNH, k_TKH, v_TKH, spans).flatten(1)
        return _join([self._finish(x, mixed) for x, mixed in _chunks(x_TD, mixed_TD)])

    def _finish(self, x_TD: Tensor, mixed_TD: Tensor) -> Tensor:
        """What follows attention, token by token."""
        x_TD = x_TD + self.attention.wo(mixed_TD)
        out_TD: Tensor = x_TD + self.feed_forward(self.ffn_norm(x_TD))
        return out_TD

    def forward_ends(
        self,
        x_TD: Tensor,
        rotation: Rotation,
        spans: Sequence[SpanTuple],
        ends_R: Tensor,
    ) -> Tensor:
        """The rows `ends_R` of `forward`, for little more than the cost of their keys."""
        normed_TD = self.attention_norm(x_TD)
        mixed_RD = self.attention.forward_ends(normed_TD, rotation, spans, ends_R)
        return self._finish(x_TD[ends_R], mixed_RD)


class Decoder(nn.Module):
    """Embeddings, layers and the final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    @property
    def blocks(self) -> list[Block]:
        """`layers` under their type."""
        return cast("list[Block]", list(self.layers))


class RewardModel(nn.Module):
    """Token ids to one score for each record."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.v_head = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(
        self,
        ids_T: Tensor,
        positions_T: Tensor,
        spans: Sequence[SpanTuple],
        ends_R: Tensor,
        lengths_T: Tensor | None = None,
    ) -> Tensor:
        """float32 [R]: the score read at each of the tokens `ends_R`.

        `ids_T`, `positions_T` and `ends_R` are integer tensors, `spans` is
        `polar_ray.planning.Pack.spans`. `lengths_T`, tokens of the record that each token belongs
        to, is needed for dynamic RoPE only.
        """
        x_TD = self.model.tok_embeddings(ids_T)
        angles_TH = rope_angles(self.config, positions_T, lengths_T)
        rotation = angles_TH.cos().to(x_TD.dtype), angles_TH.sin().to(x_TD.dtype)
        *layers, last = self.model.blocks
        for layer in layers:
            x_TD = layer(x_TD, rotation, spans)
        # A score is read at the ends alone, so the last layer computes nothing else.
        x_RD = self.model.norm(last.forward_ends(x_TD, rotation, spans, ends_R))
        scores_R: Tensor = F.linear(x_RD.float(), self.v_head.weight.float())[:, 0]
        return scores_R


def _chunks(*per_token: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same runs of rows of each tensor; other devices than a CPU take all rows at once."""
    first = per_token[0]
    rows = CPU_ROWS if first.device.type == "cpu" else len(first)
    return zip(*(tensor.split(rows) for tensor in per_token), strict=True)


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def rope_angles(config: ModelConfig, positions_T: Tensor, lengths_T: Tensor | None) -> Tensor:
    """float32 [T, 1, H]: the angle of each dimension, both halves alike.

    Dynamic scaling goes by the length of a token's own record, never by that of its neighbours.
    """
    device, half = positions_T.device, config.head_dim // 2
    exponents_H = torch.arange(half, device=device, dtype=torch.float32) / half
    bases_T1 = torch.full((1, 1), config.rope_theta, device=device)
    positions_T = positions_T.float()
    if config.rope_kind == "linear":
        positions_T = positions_T / config.rope_factor
    elif config.rope_kind == "dynamic":
        if lengths_T is None:
            raise ValueError("dynamic RoPE needs lengths_T")
        excess_T = config.rope_factor * lengths_T / config.max_position_embeddings
        growth_T = (excess_T - (config.rope_factor - 1)).clamp(min=1.0)
        power = config.head_dim / (config.head_dim - 2)
        bases_T1 = config.rope_theta * growth_T.float()[:, None] ** power
    angles_TH = positions_T[:, None] / bases_T1**exponents_H
    return torch.cat((angles_TH, angles_TH), dim=-1)[:, None]


def rotate(x_TNH: Tensor, rotation: Rotation) -> Tensor:
    """Rotary embedding: dimension i is paired with i + H / 2."""
    cos_T1H, sin_T1H = rotation
    left, right = x_TNH.chunk(2, dim=-1)
    return x_TNH * cos_T1H + torch.cat((-right, left), dim=-1) * sin_T1H
