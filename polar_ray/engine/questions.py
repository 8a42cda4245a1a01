"""Sequences of ids that an engine or a server is tried with, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from polar_ray.engine.protocol import Engine, Scores
from polar_ray.model import ModelConfig
from polar_ray.planning import Ids, build_pack, pack

Score = Callable[[Sequence[Ids]], Scores]


def random_ids(config: ModelConfig, lengths: Sequence[int], *, seed: int = 0) -> list[Ids]:
    """Sequences of arbitrary ids that end in the reward token; they need no tokenizer."""
    random = np.random.default_rng(seed)
    bodies = [random.integers(0, config.vocab_size, length - 1) for length in lengths]
    return [np.append(body, config.reward_token_id).astype(np.int32) for body in bodies]


def covering_ids(config: ModelConfig, most: int, length: int, *, seed: int = 0) -> list[Ids]:
    """At most so many sequences of so many tokens that have as many different ids as they can hold:
    none comes twice before all of the vocabulary have come once."""
    own = length - 1
    others = np.delete(np.arange(config.vocab_size), config.reward_token_id)
    if own < 1 or not len(others):
        return []
    count = min(most, -(-len(others) // own))
    bodies = np.resize(np.random.default_rng(seed).permutation(others), (count, own))
    return [np.append(body, config.reward_token_id).astype(np.int32) for body in bodies]


def alone(engine: Engine, *, rotate: bool = True, scaled_as: int | None = None) -> Score:
    """Scores one record a forward; without `rotate`, as if no token knew its position. `scaled_as`:
    with dynamic RoPE, as if each record had so many tokens."""

    def score(ids: Ids) -> np.float32:
        single = build_pack([ids], [-1], [0])
        if not rotate:
            single = replace(single, positions=np.zeros_like(single.positions))
        if scaled_as is not None:
            single = replace(single, lengths=np.full_like(single.lengths, scaled_as))
        return np.float32(engine.submit(single).result()[0])

    return lambda ids: np.array([score(record) for record in ids], dtype=np.float32)


def together(engine: Engine, ids: Sequence[Ids]) -> Scores:
    """The scores of many short records, in few forwards."""
    scores = np.zeros(len(ids), dtype=np.float32)
    for packed in pack(ids, max_tokens=engine.info.max_tokens):
        scores[packed.records] = engine.submit(packed).result()
    return scores


def altered(ids: Sequence[Ids], score: Score, unrotated: Score, *, bos: int) -> dict[str, Scores]:
    """What `diagnosis.known_faults` wants of any model: true scores of altered sequences."""
    return {
        "unrotated": unrotated(ids),
        "unended": score([row[:-1] if len(row) > 1 else row for row in ids]),
        "first": score([row[:1] for row in ids]),
        "doubled": score([np.insert(row, 0, bos) for row in ids]),
        "unbegun": score([row[1:] if row[0] == bos and len(row) > 1 else row for row in ids]),
    }
