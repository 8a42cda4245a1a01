"""First weights of the built-in model: heads that already find what two texts have in common.

Random weights would have to discover matching from scratch, and would learn it only for tokens seen
often. Here the width is divided among named features, and the first heads are set to compute them:

    layer 0  the one and two tokens before; whether a token stands after the separator
    layer 1  whether a token, pair or triple of the candidate occurs in the reference
    layer 2  the means of that over the candidate; how its mix of tokens differs from the reference

Everything else is random, and everything is trained. Knows the model and the tokenizer's texts.

Shape suffixes: D model dim, H head dim, G query, key and value of one head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polar_ray.model import ModelConfig, RewardModel
from polar_ray.model.internlm2 import FeedForward

# The division of the width. TOKEN is what tells tokens apart; the rest is zero but for flags.
TOKEN, EXACT = slice(0, 128), slice(0, 36)
COMMON, IS_SEPARATOR, IS_BOS, AFTER = 128, 129, 130, 131
MATCHES = slice(132, 135)
MEANS = slice(135, 141)
DISTANCE = 141
CLASSES = slice(142, 148)
BEFORE_1, BEFORE_2 = slice(148, 180), slice(180, 212)
DIFFERENCE = slice(212, 244)
BAG = slice(64, 96)
MIN_WIDTH = 244

FLAG = 4.0
"""Size of a flag beside token features of size 1."""

SURE = 20.0
"""An attention logit that leaves nothing for others."""

GAIN = 1.0
"""About what RMSNorm multiplies by in the first layers: `_embed` sees to it."""

STEADY = 2e-4
"""Dimensions that turn by less than this for each position count as unmoved by position."""


def initialize(model: RewardModel, texts: Sequence[str], *, bos_id: int, separator_id: int) -> None:
    """Sets every weight; draws from torch's generator. `texts` [V] are the tokens' texts."""
    config = model.config
    assert config.num_attention_heads == config.num_key_value_heads >= 4
    assert config.hidden_size >= MIN_WIDTH
    with torch.no_grad():
        _embed(model.model.tok_embeddings.weight, texts, bos_id, separator_id)
        for number, layer in enumerate(model.model.blocks):
            heads = _Heads(config)
            if number < len(PLANS):
                PLANS[number](heads)
            layer.attention.wqkv.weight.copy_(heads.qkv_NGHD.flatten(0, 2))
            layer.attention.wo.weight.copy_(heads.out_NHD.flatten(0, 1).T)
            _feed_forward(layer.feed_forward, measure=number == 2)
        model.v_head.weight.zero_()


class _Heads:
    """The projections of one layer while they are being set; random where nothing is set."""

    def __init__(self, config: ModelConfig) -> None:
        count, size, width = config.num_attention_heads, config.head_dim, config.hidden_size
        self.qkv_NGHD = torch.randn(count, 3, size, width) * width**-0.5
        self.out_NHD = torch.randn(count, size, width) * 0.5 * width**-0.5
        half = size // 2
        self.frequency_H = config.rope_theta ** -(torch.arange(half) / half)
        self.steady = torch.nonzero(self.frequency_H < STEADY)[:, 0].repeat(2)
        self.steady[len(self.steady) // 2 :] += half
        # Softmax sees q.k / sqrt(H); typical inputs come out of RMSNorm about this much larger.
        self.unit = size**0.5 / GAIN**2

    def clear(self, head: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, key, value [H, D] and output [H, D] of a head, near zero, to be set."""
        self.qkv_NGHD[head] *= 0.1
        self.out_NHD[head] *= 0.1
        query_HD, key_HD, value_HD = self.qkv_NGHD[head]
        return query_HD, key_HD, value_HD, self.out_NHD[head]

    def look_back(self, head: int, distance: int, target: slice) -> None:
        """Copies token features from `distance` tokens before into `target`."""
        query_HD, key_HD, value_HD, out_HD = self.clear(head)
        moving_H = (self.frequency_H > 0.05).float()
        size = (20.0 * self.unit) ** 0.5 / FLAG
        angle_H = self.frequency_H * distance
        half = len(angle_H)
        # A query at t meets a key at t - distance where their angles are equal.
        query_HD[:half, COMMON] = size * moving_H * angle_H.cos()
        query_HD[half:, COMMON] = -size * moving_H * angle_H.sin()
        key_HD[:half, COMMON] = size * moving_H
        for at in range(target.stop - target.start):
            value_HD[at, at] = 1.0
            out_HD[at, target.start + at] = 1.0 / GAIN

    def prefer(self, head: int, slot: int, flag: int, logit: float) -> None:
        """Adds `logit` to every key that carries `flag` at its full size."""
        query_HD, key_HD, _ = self.qkv_NGHD[head]
        at = self.steady[-1 - slot]
        query_HD[at, COMMON] = 1.0
        key_HD[at, flag] = logit * self.unit / FLAG**2

    def match(self, head: int, parts: Sequence[slice], target: int) -> None:
        """Writes to `target` whether the features `parts` occur before the separator.

        The first token stands for 'no': an equal place must outweigh it, places that are equal in
        part must not, however many there are.
        """
        equal, none = (30.0, 21.0) if len(parts) == 1 else (50.0, 42.0)
        query_HD, key_HD, value_HD, out_HD = self.clear(head)
        each = EXACT.stop // len(parts)
        size = (equal * self.unit / EXACT.stop) ** 0.5
        rows = iter(self.steady.tolist())
        for part in parts:
            for at in range(part.start, part.start + each):
                row = next(rows)
                query_HD[row, at] = size
                key_HD[row, at] = size
        self.prefer(head, 0, IS_BOS, none)
        self.prefer(head, 1, AFTER, -SURE)
        value_HD[0, COMMON] = 1.0
        value_HD[0, IS_BOS] = -2.0
        out_HD[0, target] = 0.5 / GAIN

    def average(
        self, head: int, sources: slice, target: slice, *, after: bool, sign: float
    ) -> None:
        """Writes to `target` the mean of `sources` over all tokens on one side of the separator."""
        _, _, value_HD, out_HD = self.clear(head)
        self.prefer(head, 0, AFTER, SURE / 2 if after else -SURE / 2)
        for at in range(sources.stop - sources.start):
            value_HD[at, sources.start + at] = 1.0
            out_HD[at, target.start + at] = sign


def _look_around(heads: _Heads) -> None:
    heads.look_back(0, 1, BEFORE_1)
    heads.look_back(1, 2, BEFORE_2)
    _, _, value_HD, out_HD = heads.clear(2)
    heads.prefer(2, 0, IS_SEPARATOR, SURE)
    heads.prefer(2, 1, IS_BOS, SURE / 2)
    value_HD[0, IS_SEPARATOR] = 1.0
    value_HD[0, IS_BOS] = -1.0
    out_HD[0, AFTER] = 1.0 / GAIN


def _compare(heads: _Heads) -> None:
    heads.match(0, [TOKEN], MATCHES.start)
    heads.match(1, [TOKEN, BEFORE_1], MATCHES.start + 1)
    heads.match(2, [TOKEN, BEFORE_1, BEFORE_2], MATCHES.start + 2)


def _sum_up(heads: _Heads) -> None:
    means = slice(MEANS.start, MEANS.start + 3)
    heads.average(0, MATCHES, means, after=True, sign=1.0)
    heads.average(1, BAG, DIFFERENCE, after=False, sign=3.0)
    heads.average(2, BAG, DIFFERENCE, after=True, sign=-3.0)
    # The same means over digits alone.
    heads.average(3, MATCHES, slice(means.stop, MEANS.stop), after=True, sign=1.0)
    heads.prefer(3, 1, CLASSES.start, SURE / 2)


PLANS = (_look_around, _compare, _sum_up)


def _embed(weight_VD: Tensor, texts: Sequence[str], bos_id: int, separator_id: int) -> None:
    weight_VD.normal_(std=0.05)
    weight_VD[:, TOKEN].normal_()
    # Equal lengths, in each part that a head may read, make all tokens match alike.
    parts_VPD = weight_VD[:, EXACT].unflatten(1, (6, 6))
    parts_VPD *= 6**0.5 / parts_VPD.norm(dim=-1, keepdim=True)
    weight_VD[:, COMMON] = FLAG
    weight_VD[bos_id, IS_BOS] = FLAG
    weight_VD[separator_id, IS_SEPARATOR] = FLAG
    for index, text in enumerate(texts):
        weight_VD[index, CLASSES] = FLAG * torch.tensor(_classes(text))
    # An equal length in all keeps RMSNorm from telling tokens apart by size.
    rest_VD = weight_VD[:, EXACT.stop : TOKEN.stop]
    others_V = (weight_VD**2).sum(-1) - (rest_VD**2).sum(-1)
    wanted_V = (weight_VD.shape[1] - others_V) ** 0.5
    rest_VD *= (wanted_V / rest_VD.norm(dim=-1))[:, None]


def _classes(text: str) -> list[float]:
    """Digits, a word's start, an inner part, a capital, a mark, a line break: 1 or 0 each."""
    word = text.strip()
    return [
        float(word.isdecimal()),
        float(text.startswith(" ") and word.isalpha()),
        float(text[:1].isalpha()),
        float(word[:1].isupper()),
        float(bool(word) and not word.isalnum()),
        float("\n" in text),
    ]


def _feed_forward(layer: FeedForward, *, measure: bool) -> None:
    """Random, small; where asked, some units measure the size of `DIFFERENCE`."""
    gate_FD, out_DF, up_FD = layer.w1.weight, layer.w2.weight, layer.w3.weight
    wide, width = gate_FD.shape
    for weight in (gate_FD, up_FD):
        weight.normal_(std=width**-0.5)
    out_DF.normal_(std=0.2 * wide**-0.5)
    if measure:
        units = DIFFERENCE.stop - DIFFERENCE.start
        for sign in (0, 1):
            for at in range(units):
                unit = sign * units + at
                gate_FD[unit] *= 0.1
                gate_FD[unit, DIFFERENCE.start + at] = 3.0 if sign else -3.0
                up_FD[unit] = gate_FD[unit]
                out_DF[DISTANCE, unit] = 0.1
