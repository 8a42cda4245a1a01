"""InternLM2 with POLAR's reward head, on one device, in plain torch.

Parameter names are the checkpoint's own, so a state dict is a checkpoint. Scores one packed stream
at a time; knows nothing of text, padding or batching. Source of the architecture: the published
InternLM2 model card and configuration; numbers checked against golden/model.

Shape suffixes: T packed tokens, R records, D model dim, F feed-forward dim, N query heads,
K key/value heads, G query heads for each key/value head, H head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polar_ray.model.attention import PathAttention
from polar_ray.model.config import ModelConfig

ROWS = {"cpu": 512, "cuda": 8192}
"""Tokens that a device takes through a layer's linear maps at once.

Enough for its matrix products; few enough to bound the widest activations, and on a CPU few enough
that they stay in its cache and that the allocator asks for no fresh pages.
"""

QUERIES, KEYS_VALUES = slice(None, -2), slice(-2, None)
"""Parts of the fused projection, of what it has for each key/value head."""

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, both [T, 1, H]."""

LinearMap = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    """Grouped-query attention with a fused projection, interleaved by key/value head."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_slots = config.num_attention_heads // config.num_key_value_heads + 2
        """Of each key/value head in the projection: its query heads, then k, then v."""

        self.head_dim = config.head_dim
        self.rotary = Rotary()
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        self.wqkv = nn.Linear(config.hidden_size, heads * self.head_dim, bias=config.bias)
        self.wq: nn.Module | None = None
        self.wkv: nn.Module | None = None
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def project(self, x_TD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [T, N, H], keys and values [T, K, H]."""
        # The number of heads is read off the weights: a tensor-parallel rank has only some.
        qkv_TKGH = self.wqkv(x_TD).unflatten(-1, (-1, self.num_slots, self.head_dim))
        q_TNH = self.rotary(qkv_TKGH[:, :, :-2].flatten(1, 2), rotation)
        return q_TNH, self.rotary(qkv_TKGH[:, :, -2], rotation), qkv_TKGH[:, :, -1]

    def attend_ends(
        self, x_TD: Tensor, rotation: Rotation, paths: PathAttention, ends_R: Tensor
    ) -> Tensor:
        """[R, D], before `wo`: keys and values of all tokens, queries of the ends alone."""
        queries, keys_values = self._ends_maps()
        q_RNH = queries(x_TD[ends_R]).unflatten(-1, (-1, self.head_dim))
        kv_TKGH = keys_values(x_TD).unflatten(-1, (-1, 2, self.head_dim))
        cos, sin = rotation
        q_RNH = self.rotary(q_RNH, (cos[ends_R], sin[ends_R]))
        k_TKH = self.rotary(kv_TKGH[:, :, 0], rotation)
        out_RNH = paths.attend_ends(q_RNH, k_TKH, kv_TKGH[:, :, 1], self.layer)
        return out_RNH.flatten(1)

    def split_projection(self) -> None:
        """Takes `wqkv` apart for good: a layer that scores at the ends alone never needs it whole.
        Its weights then no longer have the checkpoint's names."""
        self.wq, self.wkv = (_frozen(*self._part(part)) for part in (QUERIES, KEYS_VALUES))
        del self.wqkv

    def _ends_maps(self) -> tuple[LinearMap, LinearMap]:
        """Those of `attend_ends`: to queries, and to keys and values."""
        if self.wq is not None and self.wkv is not None:
            return self.wq, self.wkv
        (wq, bq), (wkv, bkv) = map(self._part, (QUERIES, KEYS_VALUES))
        return partial(F.linear, weight=wq, bias=bq), partial(F.linear, weight=wkv, bias=bkv)

    def _part(self, part: slice) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a part of the fused projection. Differentiable."""

        def rows(whole: Tensor) -> Tensor:
            split = whole.unflatten(0, (-1, self.num_slots, self.head_dim))
            return torch.flatten(split[:, part], 0, 2)

        bias = self.wqkv.bias
        return rows(self.wqkv.weight), None if bias is None else rows(bias)


class Rotary(nn.Module):
    """Rotary embedding: dimension i is paired with i + H / 2. A module, so that it can be fused."""

    def forward(self, x_TNH: Tensor, rotation: Rotation) -> Tensor:
        cos_T1H, sin_T1H = rotation
        left, right = x_TNH.chunk(2, dim=-1)
        return x_TNH * cos_T1H + torch.cat((-right, left), dim=-1) * sin_T1H


class Gate(nn.Module):
    """silu(gate) * up. A module, so that it can be fused."""

    def forward(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        return F.silu(gate_TF) * up_TF


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        wide, narrow = config.intermediate_size, config.hidden_size
        self.w1 = nn.Linear(narrow, wide, bias=False)
        self.w2 = nn.Linear(wide, narrow, bias=False)
        self.w3 = nn.Linear(narrow, wide, bias=False)
        self.gate = Gate()

    def forward(self, x_TD: Tensor) -> Tensor:
        out_TD: Tensor = self.w2(self.gate(self.w1(x_TD), self.w3(x_TD)))
        return out_TD


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config)
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.ffn_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x_TD: Tensor, rotation: Rotation, paths: PathAttention) -> Tensor:
        attention = self.attention
        projected = [
            attention.project(self.attention_norm(x), (cos, sin))
            for x, cos, sin in _chunks(x_TD, *rotation)
        ]
        q_TNH, k_TKH, v_TKH = map(_join, zip(*projected, strict=True))
        mixed_TD = paths.attend(q_TNH, k_TKH, v_TKH, attention.layer).flatten(1)
        return _join([self._finish(x, mixed) for x, mixed in _chunks(x_TD, mixed_TD)])

    def _finish(self, x_TD: Tensor, mixed_TD: Tensor) -> Tensor:
        """What follows attention, token by token."""
        x_TD = x_TD + self.attention.wo(mixed_TD)
        out_TD: Tensor = x_TD + self.feed_forward(self.ffn_norm(x_TD))
        return out_TD

    def forward_ends(
        self, x_TD: Tensor, rotation: Rotation, paths: PathAttention, ends_R: Tensor
    ) -> Tensor:
        """The rows `ends_R` of `forward`, for little more than the cost of their keys."""
        normed_TD = self.attention_norm(x_TD)
        mixed_RD = self.attention.attend_ends(normed_TD, rotation, paths, ends_R)
        return self._finish(x_TD[ends_R], mixed_RD)


class Decoder(nn.Module):
    """Embeddings, layers and the final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, layer) for layer in range(config.num_hidden_layers)
        )
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
        paths: PathAttention,
        ends_R: Tensor,
        lengths_T: Tensor | None = None,
    ) -> Tensor:
        """float32 [R]: the score read at each of the tokens `ends_R`.

        `ids_T`, `positions_T` and `ends_R` are integer tensors as in `polar_ray.planning.Pack`,
        `paths` is attention made for its spans. `lengths_T`, tokens of the record that each token
        belongs to, is needed for dynamic RoPE only.
        """
        x_TD = self.model.tok_embeddings(ids_T)
        angles_TH = rope_angles(self.config, positions_T, lengths_T)
        rotation = angles_TH.cos().to(x_TD.dtype), angles_TH.sin().to(x_TD.dtype)
        *layers, last = self.model.blocks
        for layer in layers:
            x_TD = layer(x_TD, rotation, paths)
        # A score is read at the ends alone, so the last layer computes nothing else.
        x_RD = self.model.norm(last.forward_ends(x_TD, rotation, paths, ends_R))
        scores_R: Tensor = F.linear(x_RD.float(), self.v_head.weight.float())[:, 0]
        return scores_R


def _frozen(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer of given weights."""
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def _chunks(*per_token: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same runs of rows of each tensor."""
    rows = ROWS[per_token[0].device.type]
    return zip(*(torch.split(tensor, rows) for tensor in per_token), strict=True)


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def fuse(model: RewardModel) -> None:
    """Compiles what lies between the matrix products, in place; gives up on what does not compile.

    On a GPU these steps are bound by memory, about a sixth of a forward when run one by one.
    """
    torch._dynamo.config.suppress_errors = True
    for module in model.modules():
        if isinstance(module, nn.RMSNorm | Rotary | Gate):
            module.compile(dynamic=True)


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
