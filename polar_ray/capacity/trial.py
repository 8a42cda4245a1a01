"""How fast one replica is on this machine's CPU: a scorer, tried for some seconds.

It has the threads that a replica of the pool would have, and scores groups of the load's lengths,
made of words.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from polar_ray.capacity.workload import Load
from polar_ray.config import NativeEngineConfig, PoolConfig
from polar_ray.errors import ConfigError
from polar_ray.scorer import Scorer

CPU = "cpu"
WORDS = ("the sum of two numbers is", "seven", "therefore", "we know that", "a", "river", "2 + 2")
LEAST_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Words:
    """Texts of a wanted number of tokens, as near as words come to it."""

    tokens_per_word: float
    random: np.random.Generator

    def text(self, tokens: int) -> str:
        """Some words, drawn."""
        count = max(1, round(tokens / self.tokens_per_word))
        return " ".join(WORDS[i] for i in self.random.integers(len(WORDS), size=count))

    def groups(self, load: Load, count: int) -> pa.Table:
        """So many groups of the load's lengths."""
        rows = []
        for _ in range(count):
            shared = {"prompt": self.text(load.prompt), "reference": self.text(load.reference)}
            rows += [{**shared, "output": self.text(load.output)} for _ in range(load.group)]
        return pa.Table.from_pylist(rows)


def measured(config: PoolConfig, load: Load, *, seconds: float = 10.0) -> float:
    """Records a second of one scorer with a replica's settings, on this machine."""
    engine = config.engine
    if not isinstance(engine, NativeEngineConfig):
        raise ConfigError(f"engine.type={engine.type}: plans are for the native engine")
    threads = engine.num_threads or max(1, int(config.num_cpus))
    here = os.cpu_count() or 1
    if threads > max(1, config.num_cpus):
        raise ConfigError(
            f"engine.num_threads={threads} is more than num_cpus={config.num_cpus:g}: replicas "
            "would take each other's cores"
        )
    if threads > here:
        raise ConfigError(f"num_cpus={config.num_cpus:g}: it is tried here, on {here} cores")
    settings = {"device": "cpu", "num_threads": threads}
    scorer = Scorer(config.scorer.model_copy(update={"engine": engine.model_copy(update=settings)}))
    words = Words(tokens_per_word(scorer), np.random.default_rng(17))
    # A first round, for what is made once, and to see how many groups are worth a round.
    rate = _rate(scorer, words, load, 1)
    count = max(1, int(rate * seconds / 4 / load.group))
    rates = [_rate(scorer, words, load, count) for _ in _rounds(seconds)]
    return float(np.median(rates))


def _rounds(seconds: float) -> Iterator[int]:
    """At least two, and more while there is time."""
    ends, number = time.monotonic() + seconds, 0
    while number < LEAST_ROUNDS or time.monotonic() < ends:
        yield number
        number += 1


def _rate(scorer: Scorer, words: Words, load: Load, count: int) -> float:
    batch = words.groups(load, count)
    began = time.perf_counter()
    scores = scorer.score(batch)
    took = time.perf_counter() - began
    if scores["error"].null_count != batch.num_rows:
        raise ConfigError(f"the trial failed: {scores['error'].drop_null()[0]}")
    return float(batch.num_rows / took)


def tokens_per_word(scorer: Scorer) -> float:
    """By the tokenizer at hand, of the words above."""
    count = 50
    words = Words(1.0, np.random.default_rng(1))
    record = {"prompt": "a", "reference": "a", "output": words.text(count)}
    [tokens] = scorer.score(pa.Table.from_pylist([record]))["num_tokens"].to_pylist()
    return max(0.2, float(tokens - 9) / count)
