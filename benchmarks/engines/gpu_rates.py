"""How fast the engine is on a device: one shape's engine, and a method for each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from engines.checkpoint import shape_of
from engines.gemm import shapes
from engines.made import config_alone
from engines.ours import NEVER
from engines.workloads import MADE, group_of, grouped, unique_tokens
from polar_ray.config import NativeEngineConfig
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.protocol import Scores
from polar_ray.model import load_config
from polar_ray.planning import Ids, Pack, pack
from polar_ray.planning.cost import Cost, cost
from polar_ray.planning.pack import MIN_SHARE

IN_FLIGHT = 2
LATENCY_TOKENS = (100, 300, 1000, 4000)


class Rates:
    """What steps return is JSON."""

    def __init__(self, folder: Path, shape: str, device: str, *, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.folder = config_alone(folder / shape, shape)
        self.shape = shape_of(self.folder)
        self._engine: NativeEngine | None = None
        self._gemm = 0.0
        self._as_it_is: Scores | None = None
        groups, sizes = (2, (4, 32, 32, 32)) if quick else (64, (16, 256, 256, 256))
        self.work: dict[str, list[Ids]] = {
            "W1": [one for n in range(groups) for one in group_of(*sizes, seed=n)]
        }
        if not quick:
            random = np.random.default_rng(11)
            self.work["W4"] = MADE["W4"]()
            self.work["like rollouts"] = [
                one
                for _ in range(24)
                for one in grouped(
                    random,
                    int(np.clip(465 * np.exp(0.6 * random.standard_normal()), 16, 4096)),
                    np.clip(260 * np.exp(0.6 * random.standard_normal(16)), 16, 4096)
                    .astype(int)
                    .tolist(),
                )
            ]

    def make(self, **settings: Any) -> NativeEngine:
        """Another engine, which the caller closes."""
        config = {"device": self.device, "prefix_cache_bytes": 0, **settings}
        return NativeEngine(NativeEngineConfig.model_validate(config), self.folder)

    @property
    def engine(self) -> NativeEngine:
        if self._engine is None:
            self._engine = self.make()
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def products(self) -> dict[str, float]:
        """Operations a second of each of a layer's products, sustained: clocks fall under load."""
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        rows, seconds = (64, 0.02) if self.quick else (16384, 2.0)
        found, total_s, total = {}, 0.0, 0
        for outputs, inputs in shapes(load_config(self.folder)):
            with torch.device(self.device):
                x, weight = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs)
            weight = weight.to(dtype)
            F.linear(x, weight)
            self._wait()
            started, count = time.perf_counter(), 0
            while time.perf_counter() - started < seconds:
                for _ in range(16):
                    F.linear(x, weight)
                self._wait()
                count += 16
            each_s = (time.perf_counter() - started) / count
            found[f"{inputs} x {outputs}"] = 2 * rows * inputs * outputs / each_s
            total, total_s = total + 2 * rows * inputs * outputs, total_s + each_s
        self._gemm = total / total_s
        return {**found, "layer": self._gemm}

    def load(self) -> dict[str, Any]:
        """Seconds until the engine is ready, weights made; and what it says of itself."""
        self.close()
        started = time.perf_counter()
        info = self.engine.info
        return {"seconds": time.perf_counter() - started, "max_tokens": info.max_tokens}

    def throughput(self, name: str, shared: bool) -> dict[str, float | None]:
        """Rates of one workload on the shape's own engine."""
        found, _ = self._rates(self.engine, self.work[name], self.engine.info.max_tokens, shared)
        return found

    def variant(self, settings: dict[str, Any]) -> dict[str, Any]:
        """W1 on an engine of these settings, timed twice, and how far its scores are from those
        of the engine as it is."""
        reference = self._reference()
        settings = dict(settings)
        max_tokens = settings.pop("max_tokens", None)
        engine = self.make(**settings)
        try:
            most = max_tokens or engine.info.max_tokens
            found, scores = self._rates(engine, self.work["W1"], most, True)
            again, _ = self._rates(engine, self.work["W1"], most, True)
        finally:
            engine.close()
        return {
            "unique_tokens_per_s": [found["unique_tokens_per_s"], again["unique_tokens_per_s"]],
            "share_of_products": found["share_of_products"],
            "off_mean": float(np.abs(scores - reference).mean()),
            "off_most": float(np.abs(scores - reference).max()),
            "correlation": float(np.corrcoef(scores, reference)[0, 1]),
        }

    def latency(self, *, graphs: bool = False) -> dict[str, float]:
        """Milliseconds of one lone pack."""
        counts = LATENCY_TOKENS[:1] if self.quick else LATENCY_TOKENS
        engine = self.make(graphs=True) if graphs else self.engine
        if graphs and self.device == "cuda" and engine._graphs is None:
            raise AssertionError("there are no graphs; the log says why")
        found = {}
        for count in counts:
            [one] = pack(grouped(np.random.default_rng(count), 0, [count]), max_tokens=count)
            work = partial_run(engine, [one], 1)
            found[str(count)] = 1000 * _median_s(work, 3 if self.quick else 20)
        if graphs:
            engine.close()
        return found

    def time_by_kernel(self) -> dict[str, Any]:
        """Shares of the device's time in one pass over W1, and how long it had nothing to do."""
        packs, ids = self._packs("W1"), self.work["W1"]
        run(self.engine, packs, len(ids))
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self.device == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        started = time.perf_counter()
        with torch.profiler.profile(activities=kinds) as profile:
            run(self.engine, packs, len(ids))
        wall_us = 1e6 * (time.perf_counter() - started)
        cuda = self.device == "cuda"
        field = "self_device_time_total" if cuda else "self_cpu_time_total"
        spent = {
            event.key: float(getattr(event, field))
            for event in profile.key_averages()
            # torch's operators carry the time of their kernels a second time.
            if not cuda or event.device_type == torch.autograd.DeviceType.CUDA
        }
        busy = sum(spent.values()) or 1.0
        most = sorted(spent, key=lambda name: -spent[name])[:14]
        return {
            "idle_share": max(0.0, 1 - busy / wall_us) if cuda else None,
            "shares": {name[:80]: round(spent[name] / busy, 4) for name in most},
        }

    def peak_memory(self) -> dict[str, float]:
        """GiB of weights and, beyond them, of a pass."""
        if self.device != "cuda":
            return {}
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(self.engine, self._packs("W1"), len(self.work["W1"]))
        peak = torch.cuda.max_memory_allocated() - held
        return {"weights": held / 2**30, "a pass": peak / 2**30}

    def row_by_row(self) -> dict[str, float]:
        """Groups whose members arrive one at a time through the prefix cache, against at once."""
        own = 33 if self.quick else 257
        ids, size = self.work["W1"], 4 if self.quick else 16
        rounds = [ids[n::size] for n in range(size)]
        cached = self.make(prefix_cache_bytes=(1 << 28) if self.quick else (16 << 30))
        try:
            most = cached.info.max_tokens
            prefix = [len(ids[0]) - own] * len(rounds[0])
            plans = [list(pack(some, max_tokens=most, prefix_lengths=prefix)) for some in rounds]

            def apart() -> None:
                cached.cache.clear()
                for plan in plans:
                    run(cached, plan, len(rounds[0]))

            seconds = _median_s(apart, 1 if self.quick else 3)
        finally:
            cached.close()
        at_once = _median_s(partial_run(self.engine, self._packs("W1"), len(ids)), 1)
        return {"apart_s": seconds, "at_once_s": at_once, "ratio": seconds / at_once}

    def transformers(self) -> dict[str, float]:
        """Padded batches of 8 by transformers' Llama on the same device: what POLAR's users run."""
        from engines.llama import BATCH, pad
        from polar_ray.model import load_model
        from polar_ray.verify.reference import as_llama

        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        ids = self.work["W1"][: 2 * BATCH]
        model = load_model(self.folder, dtype=dtype, device=self.device)
        llama = as_llama(model).to(self.device)

        @torch.inference_mode()
        def score() -> None:
            for at in range(0, len(ids), BATCH):
                tokens, mask = (x.to(self.device) for x in pad(ids[at : at + BATCH]))
                llama(tokens, attention_mask=mask, use_cache=False)
            self._wait()

        return {"records_per_s": len(ids) / _median_s(score, 1 if self.quick else 3)}

    def _reference(self) -> Scores:
        if self._as_it_is is None:
            self._as_it_is = run(self.engine, self._packs("W1"), len(self.work["W1"]))
            self.close()
        return self._as_it_is

    def _packs(self, name: str) -> list[Pack]:
        return list(pack(self.work[name], max_tokens=self.engine.info.max_tokens))

    def _rates(
        self, engine: NativeEngine, ids: list[Ids], max_tokens: int, shared: bool
    ) -> tuple[dict[str, float | None], Scores]:
        share = MIN_SHARE if shared else NEVER
        if not shared:
            ids = ids[: max(1, len(ids) // 4)]  # several times the work for each record
        started = time.perf_counter()
        packs = list(pack(ids, max_tokens=max_tokens, min_share=share))
        planned_s = time.perf_counter() - started
        scores = run(engine, packs, len(ids))
        seconds = _median_s(partial_run(engine, packs, len(ids)), 1 if self.quick else 2)
        spent = sum((cost(self.shape, one) for one in packs), Cost(0, 0)).flops
        found = {
            "records_per_s": len(ids) / seconds,
            "computed_tokens_per_s": sum(one.num_tokens for one in packs) / seconds,
            "unique_tokens_per_s": unique_tokens(ids) / seconds,
            "flops_per_s": spent / seconds,
            "share_of_products": spent / seconds / self._gemm if self._gemm else None,
            "planning_ms_per_pack": 1000 * planned_s / len(packs),
        }
        return found, scores

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


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


def partial_run(engine: NativeEngine, packs: Sequence[Pack], count: int) -> Callable[[], object]:
    """`run`, to be timed."""
    return lambda: run(engine, packs, count)


def _median_s(work: Callable[[], object], repeat: int) -> float:
    """Seconds of `work`, which ends with its results on the host; the first run does not count."""
    work()
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
