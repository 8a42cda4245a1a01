"""What planning costs by itself, in CPU seconds: the trie and the packs, no forward pass."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from engines.workloads import grouped, lognormal
from polar_ray.planning import Ids, pack

MAX_TOKENS = 16384


def many_groups(records: int, *, seed: int = 13) -> list[Ids]:
    """Groups of 16 with the statistics of `rollouts`, in shuffled order."""
    random = np.random.default_rng(seed)
    made: list[Ids] = []
    while len(made) < records:
        [shared] = lognormal(random, 465, 0.6, 1)
        made += grouped(random, shared, lognormal(random, 260, 0.6, 16))
    return [made[i] for i in random.permutation(records)]


def measure_planner(records: int = 100_000) -> dict[str, Any]:
    """Planning of one large batch, and of batches that fill about one pack each."""
    ids = many_groups(records)
    total = sum(map(len, ids))
    started = time.process_time()
    packs = list(pack(ids, max_tokens=MAX_TOKENS))
    large_s = time.process_time() - started

    small: list[float] = []
    random = np.random.default_rng(17)
    for _ in range(50):
        batch: list[Ids] = []
        unique = 0
        while unique < 0.85 * MAX_TOKENS:
            [shared] = lognormal(random, 465, 0.6, 1)
            batch += grouped(random, shared, own := lognormal(random, 260, 0.6, 16))
            unique += shared + sum(own)
        started = time.process_time()
        count = len(list(pack(batch, max_tokens=MAX_TOKENS)))
        small.append((time.process_time() - started) / count)
    return {
        "records": records,
        "tokens": total,
        "packs": len(packs),
        "cpu_s": large_s,
        "tokens_per_s": total / large_s,
        "ms_per_pack_large_batch": 1e3 * large_s / len(packs),
        "ms_per_pack_median": 1e3 * float(np.median(small)),
        "ms_per_pack_worst": 1e3 * max(small),
    }
