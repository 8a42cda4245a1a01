"""InternLM2 with POLAR's reward head, on one device, in plain torch.

Parameter names are the checkpoint's own, so a state dict is a checkpoint. Scores one packed stream
at a time; knows nothing of text, padding or batching. Source of the architecture: the published
InternLM2 model card and configuration; numbers checked against golden/model.

Shape suffixes: T packed tokens, R records, D model dim, F feed-forward dim, N query heads,
K key/value heads, S slots of each of these in the fused projection, H head dim, C rows of K and V.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polar_ray.model.attention import PathAttention
from polar_ray.model.config import ModelConfig
from polar_ray.model.mapped import MappedFiles
from polar_ray.model.steps import PLAIN, Rotation, Steps, add_product, adds_by_itself, rotate

ROWS = {"cpu": 512, "cuda": 8192}
"""Tokens that a device takes through a layer's linear maps at once.

Enough for its matrix products; few enough to bound the widest activations, and on a CPU few enough
that they stay in its cache and that the allocator asks for no fresh pages.
"""

QUERIES, KEYS_VALUES = slice(None, -2), slice(-2, None)
"""Parts of the fused projection, of what it has for each key/value head."""

LinearMap = Callable[[Tensor], Tensor]
QKV = tuple[Tensor, Tensor, Tensor]
"""Queries [T, N, H], keys and values [C, K, H]; C is T and what `PathAttention.room` asks for."""


class Attention(nn.Module):
    """Grouped-query attention with a fused projection, interleaved by key/value head."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_slots = config.num_attention_heads // config.num_key_value_heads + 2
        """Of each key/value head in the projection: its query heads, then k, then v."""

        self.head_dim = config.head_dim
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        self.wqkv = nn.Linear(config.hidden_size, heads * self.head_dim, bias=config.bias)
        self.wq: nn.Module | None = None
        self.wkv: nn.Module | None = None
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def project(
        self, x_TD: Tensor, norm: nn.RMSNorm, rotation: Rotation, room: int, steps: Steps
    ) -> QKV:
        """Queries, keys and values of all tokens; of the last two, `room` more rows."""
        if torch.is_grad_enabled():
            return _apart(self._project(norm(x_TD)), rotation)
        cos, sin = rotation
        out: QKV | None = None
        for rows in _runs(x_TD):
            qkv_TKSH = self._project(norm(x_TD[rows]))
            out = out or _buffers(qkv_TKSH, len(x_TD), room)
            steps.rope(qkv_TKSH, cos[rows], sin[rows], *(whole[rows] for whole in out))
        assert out is not None  # a pack has tokens
        return out

    def _project(self, x_TD: Tensor) -> Tensor:
        # The number of heads is read off the weights: a tensor-parallel rank has only some.
        qkv_TD: Tensor = self.wqkv(x_TD)
        return torch.unflatten(qkv_TD, -1, (-1, self.num_slots, self.head_dim))

    def attend_ends(
        self,
        x_TD: Tensor,
        rotation: Rotation,
        paths: PathAttention,
        ends_R: Tensor,
        steps: Steps,
    ) -> Tensor:
        """[R, D], before `wo`: keys and values of all tokens, queries of the ends alone."""
        queries, keys_values = self._ends_maps()
        cos, sin = rotation
        q_RNH = queries(x_TD[ends_R]).unflatten(-1, (-1, self.head_dim))
        q_RNH = rotate(q_RNH, (cos[ends_R], sin[ends_R]))
        kv_TKSH = keys_values(x_TD).unflatten(-1, (-1, 2, self.head_dim))
        total = len(x_TD)
        if torch.is_grad_enabled():
            _, k_CKH, v_CKH = _apart(kv_TKSH, rotation)
        else:
            _, k_CKH, v_CKH = _buffers(kv_TKSH, total, paths.room)
            steps.rope(kv_TKSH, cos, sin, None, k_CKH[:total], v_CKH[:total])
        return paths.attend_ends(q_RNH, k_CKH, v_CKH, self.layer).flatten(1)

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


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        wide, narrow = config.intermediate_size, config.hidden_size
        self.w1 = nn.Linear(narrow, wide, bias=False)
        self.w2 = nn.Linear(wide, narrow, bias=False)
        self.w3 = nn.Linear(narrow, wide, bias=False)
        self.w13: nn.Module | None = None

    def gated(self, x_TD: Tensor, steps: Steps) -> Tensor:
        """[T, F], what `w2` is given."""
        if self.w13 is None:
            return steps.gate(self.w1(x_TD), self.w3(x_TD))
        gate_TF, up_TF = self.w13(x_TD).chunk(2, dim=-1)
        return steps.gate(gate_TF, up_TF)

    def join_gate(self) -> None:
        """Makes `w1` and `w3` one product for good, without a second copy of either. Its weights
        then no longer have the checkpoint's names."""
        self.w13 = _frozen(torch.cat([self.w1.weight, self.w3.weight]), None)
        del self.w1, self.w3


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config)
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.ffn_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, x_TD: Tensor, rotation: Rotation, paths: PathAttention, steps: Steps
    ) -> Tensor:
        """The next layer's `x_TD`, written over this one's where no gradients are asked for."""
        attention = self.attention
        q_TNH, k_CKH, v_CKH = attention.project(
            x_TD, self.attention_norm, rotation, paths.room, steps
        )
        mixed_TD = paths.attend(q_TNH, k_CKH, v_CKH, attention.layer).flatten(1)
        if torch.is_grad_enabled():
            return self._finish(x_TD, mixed_TD)
        for rows in _runs(x_TD):
            self._finish_in_place(x_TD[rows], mixed_TD[rows], steps)
        return x_TD

    def _finish(self, x_TD: Tensor, mixed_TD: Tensor) -> Tensor:
        """What follows attention, token by token. Differentiable."""
        x_TD = x_TD + self.attention.wo(mixed_TD)
        gated_TF = self.feed_forward.gated(self.ffn_norm(x_TD), PLAIN)
        out_TD: Tensor = x_TD + self.feed_forward.w2(gated_TF)
        return out_TD

    def _finish_in_place(self, x_TD: Tensor, mixed_TD: Tensor, steps: Steps) -> None:
        """The same, added into `x_TD`."""
        wo, norm = self.attention.wo, self.ffn_norm
        if adds_by_itself(wo):
            normed_TD = norm(add_product(x_TD, wo, mixed_TD))
        else:
            normed_TD = steps.add_norm(x_TD, wo(mixed_TD), norm.weight, cast(float, norm.eps))
        add_product(x_TD, self.feed_forward.w2, self.feed_forward.gated(normed_TD, steps))

    def forward_ends(
        self,
        x_TD: Tensor,
        rotation: Rotation,
        paths: PathAttention,
        ends_R: Tensor,
        steps: Steps,
    ) -> Tensor:
        """The rows `ends_R` of `forward`, for little more than the cost of their keys."""
        normed_TD = self.attention_norm(x_TD)
        mixed_RD = self.attention.attend_ends(normed_TD, rotation, paths, ends_R, steps)
        x_RD = x_TD[ends_R]
        if torch.is_grad_enabled():
            return self._finish(x_RD, mixed_RD)
        self._finish_in_place(x_RD, mixed_RD, steps)
        return x_RD


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
        self.files = MappedFiles()
        """From which weights are mapped."""

        self.steps = PLAIN
        """What is done between the matrix products, where no gradients are asked for."""

    def join_gates(self) -> None:
        """See `FeedForward.join_gate`; block by block, so that no second copy is ever whole."""
        for block in self.model.blocks:
            block.feed_forward.join_gate()

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
            x_TD = layer(x_TD, rotation, paths, self.steps)
        # A score is read at the ends alone, so the last layer computes nothing else.
        x_RD = last.forward_ends(x_TD, rotation, paths, ends_R, self.steps)
        x_RD = self.model.norm(x_RD)
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


def _runs(x_TD: Tensor) -> Iterator[slice]:
    """The rows that go through a layer's linear maps together."""
    total, most = len(x_TD), ROWS[x_TD.device.type]
    return (slice(start, min(start + most, total)) for start in range(0, total, most))


def _apart(qkv_TKSH: Tensor, rotation: Rotation) -> QKV:
    """Queries, keys and values of a projection. Differentiable."""
    q_TNH = rotate(qkv_TKSH[:, :, :-2].flatten(1, 2), rotation)
    return q_TNH, rotate(qkv_TKSH[:, :, -2], rotation), qkv_TKSH[:, :, -1]


def _buffers(qkv_TKSH: Tensor, total: int, room: int) -> QKV:
    """Where the queries, keys and values of `total` tokens come to stand, of which `qkv_TKSH` has
    some. There is `room` behind the keys and the values."""
    _, kv_heads, slots, size = qkv_TKSH.shape
    q_TNH = qkv_TKSH.new_empty(total, kv_heads * (slots - 2), size)
    k_CKH, v_CKH = qkv_TKSH.new_empty(2, total + room, kv_heads, size)
    return q_TNH, k_CKH, v_CKH


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
