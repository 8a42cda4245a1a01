"""The native engine on one GPU: how near it comes to the device's limit, and what sharing is worth.

    python benchmarks/gpu.py [--shape 7B|1.8B|tiny] [--groups 64] [--out DIR]

Random bf16 weights of POLAR's shapes, written as a checkpoint and loaded like any other. Measured
in one run: the rate of bare matrix products of the model's shapes, unique tokens a second and the
share of that rate (MFU, by the exact FLOPs of the plan), records a second with and without sharing,
groups whose members arrive apart through the prefix cache, fp8, peak memory, errors against
float32, and the costliest kernels. `--device cpu --shape tiny` runs the same code anywhere.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from engines.checkpoint import make_checkpoint, shape_of
from engines.cost import Cost, cost
from engines.gemm import gemm_rate
from engines.ours import NEVER
from engines.workloads import MADE, group_of, rollouts, unique_tokens
from rich.console import Console

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.protocol import Scores
from polar_ray.planning import Ids, Pack, pack

DATA = Path("../shared/data")
IN_FLIGHT = 2
console = Console(width=140)


def run(engine: NativeEngine, packs: Sequence[Pack], count: int) -> Scores:
    """float32 [records], with the packs overlapping as in the scorer."""
    scores = np.full(count, np.nan, dtype=np.float32)
    flying: list[tuple[Pack, Any]] = []
    for one in packs:
        flying.append((one, engine.submit(one)))
        if len(flying) == IN_FLIGHT:
            done, pending = flying.pop(0)
            scores[done.records] = pending.result()
    for done, pending in flying:
        scores[done.records] = pending.result()
    return scores


def median_s(work: Callable[[], object], repeat: int) -> float:
    """Seconds of `work`, which ends with its results on the host; the first run does not count."""
    work()
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


class Bench:
    """Engines of one checkpoint, one after the other."""

    def __init__(self, folder: Path, device: str, repeat: int) -> None:
        self.folder, self.device, self.repeat = folder, device, repeat
        self.shape = shape_of(folder)

    def engine(self, **settings: Any) -> NativeEngine:
        """A fresh engine; the caller closes it."""
        config = NativeEngineConfig.model_validate(
            {"device": self.device, "prefix_cache_bytes": 0, **settings}
        )
        return NativeEngine(config, self.folder)

    def throughput(self, engine: NativeEngine, ids: list[Ids], *, shared: bool) -> dict[str, float]:
        """Rates of one workload; its plan is made beforehand, and timed apart."""
        share = 64 if shared else NEVER
        started = time.perf_counter()
        packs = list(pack(ids, max_tokens=engine.info.max_tokens, min_share=share))
        planned_s = time.perf_counter() - started
        seconds = median_s(lambda: run(engine, packs, len(ids)), self.repeat)
        spent = sum((cost(self.shape, one) for one in packs), Cost(0, 0)).flops
        tokens = sum(one.num_tokens for one in packs)
        return {
            "records_per_s": len(ids) / seconds,
            "computed_tokens_per_s": tokens / seconds,
            "unique_tokens_per_s": unique_tokens(ids) / seconds,
            "flops_per_s": spent / seconds,
            "planning_ms_per_pack": 1000 * planned_s / len(packs),
        }

    def streamed(self, groups: Sequence[list[Ids]], prefixes: Sequence[int]) -> dict[str, float]:
        """Groups whose members arrive one at a time, against the same groups at once."""
        engine = self.engine(prefix_cache_bytes=1 << 34)
        most = engine.info.max_tokens
        rounds = [
            list(pack(column, max_tokens=most, min_share=64, prefix_lengths=prefixes))
            for column in zip(*groups, strict=True)
        ]
        whole = list(pack([one for g in groups for one in g], max_tokens=most, min_share=64))

        def apart() -> None:
            if engine.cache is not None:
                engine.cache.clear()
            for packs in rounds:
                run(engine, packs, len(groups))

        total = sum(map(len, groups))
        seconds = median_s(apart, self.repeat)
        at_once = median_s(lambda: run(engine, whole, total), self.repeat)
        engine.close()
        return {"apart_s": seconds, "at_once_s": at_once, "ratio": seconds / at_once}

    def profile(self, engine: NativeEngine, ids: list[Ids]) -> str:
        """The costliest kernels of one pass, as a table."""
        packs = list(pack(ids, max_tokens=engine.info.max_tokens, min_share=64))
        run(engine, packs, len(ids))
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self.device == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=kinds) as profile:
            run(engine, packs, len(ids))
        key = "self_cuda_time_total" if self.device == "cuda" else "self_cpu_time_total"
        return str(profile.key_averages().table(sort_by=key, row_limit=14))


def errors(found: Scores, exact: Scores) -> dict[str, float]:
    """How far scores are from float32's."""
    off = np.abs(found - exact)
    return {
        "mean": float(off.mean()),
        "max": float(off.max()),
        "relative": float(np.linalg.norm(found - exact) / np.linalg.norm(exact)),
        "correlation": float(np.corrcoef(found, exact)[0, 1]),
    }


def main(
    shape: Annotated[str, typer.Option(help="7B, 1.8B, prototype or tiny.")] = "7B",
    groups: Annotated[int, typer.Option(help="Groups of a workload.")] = 64,
    repeat: Annotated[int, typer.Option(help="Timed runs; the median counts.")] = 5,
    device: Annotated[str, typer.Option()] = "cuda",
    data: Annotated[Path, typer.Option(help="Folder of rollouts.parquet.")] = Path(
        "../shared/data"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder for report and profile.")] = None,
) -> None:
    """Prints what it measures as it goes, and one line of JSON at the end."""
    cuda = device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    report: dict[str, Any] = {"shape": shape, "torch": torch.__version__}
    report["device"] = torch.cuda.get_device_name() if cuda else "cpu"

    def tell(name: str, value: Any) -> None:
        report[name] = value
        console.print(name, value)

    with tempfile.TemporaryDirectory() as place:
        folder = make_checkpoint(Path(place) / shape, shape, device=device, dtype=dtype)
        bench = Bench(folder, device, repeat)
        engine = bench.engine()
        gemm = gemm_rate(engine.model, [16384 if cuda else 512], clock=time.perf_counter)
        tell("gemm_flops_per_s", gemm)
        tell("max_tokens", engine.info.max_tokens)
        work = {
            "W1": [one for n in range(groups) for one in group_of(16, 256, 256, 256, seed=n)],
            "W4": MADE["W4"](),
            "rollouts": rollouts(data, groups),
        }
        for name, ids in work.items():
            shared, apart = (bench.throughput(engine, ids, shared=on) for on in (True, False))
            tell(name, shared)
            tell(f"{name} unshared", apart)
            tell(f"{name} mfu", shared["flops_per_s"] / gemm)
            tell(f"{name} sharing", shared["records_per_s"] / apart["records_per_s"])
        if cuda:
            tell("peak_memory_gib", torch.cuda.max_memory_allocated() / 2**30)
        table = bench.profile(engine, work["W1"])
        console.print(table)
        sample = work["W1"][:32]
        few = list(pack(sample, max_tokens=4096, min_share=64))
        found = run(engine, few, len(sample))
        engine.close()
        prefixes = [2 * 256 + 256 + 3] * groups
        made = [group_of(16, 256, 256, 256, seed=n) for n in range(groups)]
        tell("streamed", bench.streamed(made, prefixes))
        exact_engine = bench.engine(dtype="float32", compile=False)
        exact = run(exact_engine, few, len(sample))
        exact_engine.close()
        tell("error", errors(found, exact))
        for kind in ("fp8",) if cuda else ("int8",):
            rounded = bench.engine(dtype=kind)
            tell(f"{kind} error", errors(run(rounded, few, len(sample)), exact))
            tell(f"{kind} W1", bench.throughput(rounded, work["W1"], shared=True))
            rounded.close()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"gpu-{shape}.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        (out / f"profile-{shape}.txt").write_text(table, encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    typer.run(main)
