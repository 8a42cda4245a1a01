"""Measures one competitor on one workload, in a process of its own; prints one line of JSON.

    python -m engines.worker '{"engine": ..., "model_dir": ..., "ids": ..., ...}'

A process each keeps CPU seconds and peak memory clean.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from engines.gemm import gemm_rate
from engines.ours import Ours
from polar_ray.engine.protocol import Scores
from polar_ray.planning import Ids

OURS = "polar_ray"
NO_REUSE = "no reuse (vllm-like)"
NAIVE = "transformers"
SORTED = "transformers by length"


class Competitor(Protocol):
    """Token ids to scores, and what that takes."""

    def score(self, ids: Sequence[Ids]) -> Scores: ...

    def tokens(self, ids: Sequence[Ids]) -> int: ...

    def flops(self, ids: Sequence[Ids]) -> int: ...


def build(name: str, model_dir: Path, max_tokens: int | None) -> Competitor:
    """The competitor of that name, loaded."""
    if name in (NAIVE, SORTED):
        from engines.llama import Transformers

        return Transformers(model_dir, by_length=name == SORTED)
    return Ours(model_dir, max_tokens=max_tokens, shared=name == OURS)


def load_ids(path: Path) -> list[Ids]:
    """What `save_ids` wrote."""
    with np.load(path) as file:
        return np.split(file["ids"], np.cumsum(file["lengths"])[:-1])


def save_ids(path: Path, ids: Sequence[Ids]) -> None:
    """Records as one array of ids and one of lengths, so that a foreign process can read them."""
    np.savez(path, ids=np.concatenate(list(ids)), lengths=[len(one) for one in ids])


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Scores, and the CPU and wall seconds of the fastest run; loading is not part of them."""
    torch.set_num_threads(task["threads"])
    ids = load_ids(Path(task["ids"]))
    competitor = build(task["engine"], Path(task["model_dir"]), task["max_tokens"])
    competitor.score([np.arange(40, dtype=np.int32)])  # first calls allocate and choose kernels
    report: dict[str, Any] = {"computed_tokens": competitor.tokens(ids)}
    rates = []
    runs = []
    for _ in range(task["repeat"]):
        rates.append(_gemm_rate(competitor, ids))
        cpu, wall = time.process_time(), time.perf_counter()
        scores = competitor.score(ids)
        runs.append((time.process_time() - cpu, time.perf_counter() - wall))
    rates.append(_gemm_rate(competitor, ids))
    report |= {
        "cpu_s": min(cpu for cpu, _ in runs),
        "wall_s": min(wall for _, wall in runs),
        "runs_cpu_s": [round(cpu, 3) for cpu, _ in runs],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "scores": scores.astype(float).tolist(),
        "gemm_flops_per_s": max(rates),
    }
    if isinstance(competitor, Ours):
        planned = competitor.planned(ids)
        report["planned_flops"] = planned.flops
        report["planned_attention_flops"] = planned.attention
        report["ideal_flops"] = competitor.ideal(ids).flops
    # Counting last: it runs everything again, and not at full speed.
    if task["count"]:
        report["executed_flops"] = competitor.flops(ids)
    return report


def _gemm_rate(competitor: Competitor, ids: Sequence[Ids]) -> float:
    """The rate of bare products, taken between runs because a shared machine's speed drifts."""
    if not isinstance(competitor, Ours):
        return 0.0
    return gemm_rate(competitor.engine.model, [one.num_tokens for one in competitor.packs(ids)])


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
