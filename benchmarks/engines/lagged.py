"""Sharing that lags: prefixes come from records of earlier chunks, never from the same chunk.

So works a radix cache that is filled when a chunk has run, with records taken in arrival order.
Runs on polar_ray's layers, pruned last layer included, and keeps every record's keys and values.

Shape suffixes: T new tokens of a chunk, S new tokens of a record, C tokens that they see, R records
of a chunk, D model dim, N query heads, K key/value heads, G query heads for each key/value head,
H head dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from polar_ray.engine.protocol import Scores
from polar_ray.model import load_model
from polar_ray.model.attention import BLOCK
from polar_ray.model.flops import count_flops
from polar_ray.model.internlm2 import Block, rope_angles
from polar_ray.planning import Ids
from polar_ray.planning.trie import common_prefix

CHUNK = 8192
"""New tokens of one forward."""

KeysValues = tuple[Tensor, Tensor]
"""Both [C, K, H]."""


class Part(NamedTuple):
    """A record of a chunk: its first `known` tokens were computed as part of record `source`."""

    record: int
    source: int
    known: int


class Lagged:
    """Chunks of whole records in arrival order, each with the prefixes of the chunks before."""

    def __init__(self, model_dir: Path) -> None:
        self.model = load_model(model_dir, dtype=torch.float32)

    @torch.inference_mode()
    def score(self, ids: Sequence[Ids]) -> Scores:
        """float32 [records]"""
        scores = np.empty(len(ids), dtype=np.float32)
        cache: dict[int, list[KeysValues]] = {}
        for chunk in chunks(ids):
            scores[[part.record for part in chunk]] = self._forward(ids, chunk, cache).numpy()
        return scores

    def tokens(self, ids: Sequence[Ids]) -> int:
        """Tokens computed."""
        return sum(len(ids[p.record]) - p.known for chunk in chunks(ids) for p in chunk)

    def flops(self, ids: Sequence[Ids]) -> int:
        """Executed operations, counted."""
        return count_flops(lambda: self.score(ids))

    def _forward(
        self, ids: Sequence[Ids], chunk: Sequence[Part], cache: dict[int, list[KeysValues]]
    ) -> Tensor:
        new = [ids[part.record][part.known :] for part in chunk]
        places = [np.arange(part.known, len(ids[part.record])) for part in chunk]
        x_TD = self.model.model.tok_embeddings(torch.from_numpy(np.concatenate(new)).long())
        angles = rope_angles(self.model.config, torch.from_numpy(np.concatenate(places)), None)
        rotation = angles.cos(), angles.sin()
        sizes = [len(one) for one in new]
        kept: dict[int, list[KeysValues]] = {part.record: [] for part in chunk}
        *layers, last = self.model.model.blocks
        for number, layer in enumerate(layers):
            before = [cache[p.source][number] if p.known else None for p in chunk]
            x_TD = self._layer(layer, x_TD, rotation, sizes, before, chunk, kept)
        before = [cache[p.source][-1] if p.known else None for p in chunk]
        x_RD = self._layer(last, x_TD, rotation, sizes, before, chunk, kept, ends_only=True)
        cache.update(kept)
        return F.linear(self.model.model.norm(x_RD), self.model.v_head.weight)[:, 0]

    def _layer(
        self,
        layer: Block,
        x_TD: Tensor,
        rotation: tuple[Tensor, Tensor],
        sizes: list[int],
        before: Sequence[KeysValues | None],
        chunk: Sequence[Part],
        kept: dict[int, list[KeysValues]],
        *,
        ends_only: bool = False,
    ) -> Tensor:
        attention = layer.attention
        qkv = attention.wqkv(layer.attention_norm(x_TD))
        qkv_TKGH = qkv.unflatten(-1, (-1, attention.num_slots, attention.head_dim))
        q_TNH = attention.rotary(qkv_TKGH[:, :, :-2].flatten(1, 2), rotation)
        k_TKH, v_TKH = attention.rotary(qkv_TKGH[:, :, -2], rotation), qkv_TKGH[:, :, -1]
        out = []
        parts = zip(q_TNH.split(sizes), k_TKH.split(sizes), v_TKH.split(sizes), strict=True)
        for part, past, (q_SNH, k, v) in zip(chunk, before, parts, strict=True):
            if past is not None:
                k = torch.cat((past[0][: part.known], k))
                v = torch.cat((past[1][: part.known], v))
            kept[part.record].append((k, v))
            out.append(causal(q_SNH[-1:] if ends_only else q_SNH, k, v))
        rows = torch.tensor(sizes).cumsum(0) - 1 if ends_only else slice(None)
        x = x_TD[rows] + attention.wo(torch.cat(out).flatten(1))
        done: Tensor = x + layer.feed_forward(layer.ffn_norm(x))
        return done


def chunks(ids: Sequence[Ids]) -> Iterator[list[Part]]:
    """Records in arrival order, as many as have `CHUNK` new tokens or one alone."""
    done: list[int] = []
    chunk: list[Part] = []
    room = CHUNK
    for record in range(len(ids)):
        part = _match(ids, record, done)
        if chunk and len(ids[record]) - part.known > room:
            yield chunk
            done += [one.record for one in chunk]
            chunk, room = [], CHUNK
            part = _match(ids, record, done)
        chunk.append(part)
        room -= len(ids[record]) - part.known
    if chunk:
        yield chunk


def _match(ids: Sequence[Ids], record: int, done: Sequence[int]) -> Part:
    """The longest prefix among records that are done; the last token is always computed."""
    common = [(common_prefix(ids[record], ids[other]), other) for other in done]
    known, source = max(common, default=(0, -1))
    return Part(record, source, min(known, len(ids[record]) - 1))


def causal(q_SNH: Tensor, k_CKH: Tensor, v_CKH: Tensor) -> Tensor:
    """Attention of S queries that are the last S of the C keys, in blocks as the engine does it."""
    reach = len(k_CKH) - len(q_SNH)
    out = []
    for q_block in q_SNH.split(BLOCK):
        reach += len(q_block)
        q_KGSH = q_block.unflatten(1, (k_CKH.shape[1], -1)).permute(1, 2, 0, 3)
        k, v = (
            x[:reach].transpose(0, 1)[:, None].expand(-1, q_KGSH.shape[1], -1, -1)
            for x in (k_CKH, v_CKH)
        )
        mask = q_block.new_ones((len(q_block), reach), dtype=torch.bool).tril(reach - len(q_block))
        attended = F.scaled_dot_product_attention(q_KGSH, k, v, attn_mask=mask)
        out.append(attended.permute(2, 0, 1, 3).flatten(1, 2))
    return torch.cat(out)
