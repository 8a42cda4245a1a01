"""Sharing that lags: prefixes come from records of earlier chunks, never from the same chunk.

So works a radix cache that is filled when a chunk has run, with records taken in arrival order.
Runs on polar_ray's model, pruned last layer included, and keeps every record's keys and values.

Shape suffix: R records of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engines.flops import count_flops
from polar_ray.engine.protocol import Scores
from polar_ray.model import load_model
from polar_ray.model.attention import BlockedAttention, Recall, SpanKV, SpanTuple
from polar_ray.planning import Ids
from polar_ray.planning.trie import common_prefix

CHUNK = 8192
"""New tokens of one forward."""


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
        cache: dict[int, list[SpanKV]] = {}
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
        self, ids: Sequence[Ids], chunk: Sequence[Part], cache: dict[int, list[SpanKV]]
    ) -> Tensor:
        new = [ids[part.record][part.known :] for part in chunk]
        places = [np.arange(part.known, len(ids[part.record])) for part in chunk]
        stops = np.cumsum([len(one) for one in new]).tolist()
        spans: list[SpanTuple] = []
        known: dict[int, list[SpanKV]] = {}
        own: list[int] = []
        for part, start, stop in zip(chunk, [0, *stops[:-1]], stops, strict=True):
            parent = -1
            if part.known:
                parent = len(spans)
                known[parent] = [_first(part.known, kv) for kv in cache[part.source]]
                spans.append((start, start, -1))
            own.append(len(spans))
            spans.append((start, stop, parent))
        recall = Recall(known, {span: slice(*spans[span][:2]) for span in own})
        ends = [stop - 1 for stop in stops]
        scores_R: Tensor = self.model(
            torch.from_numpy(np.concatenate(new)),
            torch.from_numpy(np.concatenate(places)),
            BlockedAttention(spans, ends, recall),
            torch.tensor(ends),
        )
        for part, span in zip(chunk, own, strict=True):
            before = known.get(spans[span][2])
            cache[part.record] = _joined(before, recall.kept[span])
        return scores_R


def _first(count: int, kv: SpanKV) -> SpanKV:
    return SpanKV(kv.k_SKH[:count], kv.v_SKH[:count])


def _joined(before: Sequence[SpanKV] | None, after: Sequence[SpanKV]) -> list[SpanKV]:
    if before is None:
        return list(after)
    pairs = zip(before, after, strict=True)
    return [SpanKV(*map(torch.cat, zip(a, b, strict=True))) for a, b in pairs]


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
