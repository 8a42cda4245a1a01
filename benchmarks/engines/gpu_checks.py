"""Whether a device computes rightly: kernels against float64, scores against other scores."""

from __future__ import annotations

import gc
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engines.checkpoint import SHAPES
from engines.made import config_alone
from engines.workloads import MADE, group_of, grouped
from polar_ray.config import NativeEngineConfig
from polar_ray.engine.native import NativeEngine
from polar_ray.errors import OutOfMemory
from polar_ray.model.attention import BlockedAttention, Recall
from polar_ray.model.quantized import KINDS
from polar_ray.model.transfer import send
from polar_ray.planning import Ids, Pack, build_pack, pack

ROWS = (1, 16, 127, 256, 257, 8192)


class Checks:
    """One method for each step; what it returns is JSON, and what is wrong raises."""

    def __init__(self, folder: Path, device: str, *, quick: bool) -> None:
        self.folder, self.device, self.quick = folder, device, quick
        group = group_of(4, 32, 32, 32) if quick else group_of(16, 256, 256, 256)
        self.packs: dict[str, Pack] = {
            "one token": _first(_alone(1)),
            "two tokens": _first(_alone(2)),
            "a group": _first(group),
            "records that share nothing": build_pack(group[:3], [-1] * 3, range(3)),
        }
        if not quick:
            self.packs |= {
                "W4": _first(MADE["W4"]()),
                "a chunk and a token": _first(_alone(8193)),
                "16k": _first(_alone(16384)),
            }

    def versions(self) -> dict[str, Any]:
        found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
        try:
            import triton

            found["triton"] = triton.__version__
        except ImportError:
            found["triton"] = None
        if self.device == "cuda":
            found["device"] = torch.cuda.get_device_name()
            found["capability"] = torch.cuda.get_device_capability()
            found["memory"] = torch.cuda.mem_get_info()
        return found

    def engine(self, where: Path, **settings: Any) -> NativeEngine:
        config = {"device": self.device, "prefix_cache_bytes": 0, **settings}
        return NativeEngine(NativeEngineConfig.model_validate(config), where)

    def golden(self, where: Path) -> dict[str, float]:
        """Scores of a model with published rewards, in float32 and in 16 bits."""
        cases = json.loads((where / "rewards.json").read_text(encoding="utf-8"))["cases"]
        records = [np.array(case["input_ids"], dtype=np.int32) for case in cases]
        wanted = np.array([case["reward"] for case in cases], dtype=np.float32)
        spread = float(np.ptp(wanted))
        dtypes = {"float32": 1e-4, "bfloat16": 0.05 * spread, "float16": 0.01 * spread}
        found = {}
        for dtype, most in dtypes.items() if self.device == "cuda" else [("float32", 1e-4)]:
            engine = self.engine(where, dtype=dtype)
            scores = [engine.submit(build_pack([one], [-1], [0])).result() for one in records]
            found[dtype] = _within(np.concatenate(scores), wanted, most)
            engine.close()
        return found

    def shaped(self, shape: str, layers: int | None = None) -> Path:
        changes = {} if layers is None else {"num_hidden_layers": layers}
        return config_alone(self.folder / f"{shape}-{layers}", shape, **changes)

    def smoke(self, shape: str) -> dict[str, Any]:
        """All layers once; the engine's own figures."""
        engine = self.engine(self.shaped(shape))
        scores = engine.submit(self.packs["a group"]).result()
        info = {"max_tokens": engine.info.max_tokens, "dtype": engine.info.dtype}
        engine.close()
        if not np.isfinite(scores).all() or np.ptp(scores) == 0:
            raise AssertionError(f"scores {scores[:4]}")
        return {**info, "spread": float(np.ptp(scores))}

    @torch.inference_mode()
    def attention(self, shape: str, case: str) -> dict[str, float]:
        """One layer's attention as the engine chose it, against float64, relative to its size."""
        engine = self.engine(self.shaped(shape, 2))
        one, values = self.packs[case], SHAPES[shape]
        heads, kv_heads = values["num_attention_heads"], values["num_key_value_heads"]
        size = values["hidden_size"] // heads
        random = torch.Generator(self.device).manual_seed(0)
        q, k, v = (
            torch.randn(one.num_tokens, n, size, generator=random, device=self.device).to(
                engine.dtype
            )
            for n in (heads, kv_heads, kv_heads)
        )
        ends = one.ends.tolist()
        arrays, attention = engine._prepare(one.spans, ends, Recall())
        paths = attention(send(arrays, self.device) if arrays else [])
        exact = BlockedAttention(one.spans, ends)
        found = {}
        for name, queries in (("all", q), ("ends", q[ends])):
            call = "attend" if name == "all" else "attend_ends"
            out = getattr(paths, call)(queries, k, v, 0)
            wanted = getattr(exact, call)(queries.double(), k.double(), v.double(), 0)
            found[name] = _norm(out, wanted, 1e-2 if engine.dtype != torch.float32 else 1e-4)
        engine.close()
        return found

    def whole_engine(self, shape: str) -> dict[str, float]:
        """Two layers in the engine's dtype against float32, and against other packs."""
        where, one = self.shaped(shape, 2), self.packs["a group"]
        scores = {}
        for name, settings in {"own": {}, "exact": {"dtype": "float32"}}.items():
            engine = self.engine(where, **settings)
            scores[name] = engine.submit(one).result()
            if name == "own":
                alone = build_pack([_record(one, 0)], [-1], [0])
                lone = engine.submit(alone).result()
            engine.close()
        spread = float(np.ptp(scores["exact"])) or 1.0
        return {
            "off": _within(scores["own"], scores["exact"], 0.15 * spread),
            "alone": _within(lone, scores["own"][:1], 0.15 * spread),
        }

    def prefix_cache(self, shape: str, *, graphs: bool = False) -> dict[str, float]:
        """Scores of a group that comes row by row, against the group at once."""
        own = 32 if self.quick else 200  # few enough for a graph
        ids = group_of(4, 32, 32, own) if self.quick else group_of(16, 256, 256, own)
        prefix = len(ids[0]) - own - 1
        where = self.shaped(shape, 2)
        plain, cached = (
            self.engine(where),
            self.engine(where, prefix_cache_bytes=1 << 28, graphs=graphs),
        )
        wanted, found = np.empty(len(ids), np.float32), np.empty(len(ids), np.float32)
        for one in pack(ids, max_tokens=32768):
            wanted[one.records] = plain.submit(one).result()
        for number, record in enumerate(ids):
            [one] = pack([record], max_tokens=32768, prefix_lengths=[prefix])
            found[number] = cached.submit(one).result()[0]
        if graphs and self.device == "cuda" and cached._graphs is None:
            raise AssertionError("there are no graphs; the log says why")
        hits = cached.counters["prefix_hits"]
        plain.close()
        cached.close()
        if hits != len(ids) - 1:
            raise AssertionError(f"{hits} hits of {len(ids) - 1}")
        return {"off": _within(found, wanted, 0.15 * float(np.ptp(wanted)))}

    def fp8_rows(self, shape: str) -> dict[str, Any]:
        """8-bit products of the model's shapes for each number of rows, padded and not."""
        kind = "fp8" if self.device == "cuda" else "int8"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        width, wide = SHAPES[shape]["hidden_size"], SHAPES[shape]["intermediate_size"]
        found: dict[str, Any] = {}
        for inputs, outputs in ((width, width), (width, wide), (wide, width)):
            with torch.device(self.device):
                linear = nn.Linear(inputs, outputs, bias=False, dtype=dtype).requires_grad_(False)
                layer = KINDS[kind](linear)
                for rows in ROWS[:3] if self.quick else ROWS:
                    x = torch.randn(rows, inputs, dtype=dtype)
                    error = _norm(layer(x), linear(x).double(), 0.08)
                    rounded, scale = layer.round(x)
                    try:
                        layer.multiply(rounded, scale, dtype)
                        bare = "runs"
                    except RuntimeError as refusal:
                        bare = str(refusal)[:80]
                    found[f"{rows} x {inputs} x {outputs}"] = {"error": error, "unpadded": bare}
        return found

    def out_of_memory(self, shape: str) -> dict[str, Any]:
        """A pack that has no room is said to have none, and the engine goes on."""
        if self.device != "cuda":
            return {"skipped": "a CPU has as much as its machine"}
        engine = self.engine(self.shaped(shape, 2))
        small = engine.submit(self.packs["one token"]).result()
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_allocated() + (1 << 30)) / total
        )
        try:
            engine.submit(_first(_alone(32768))).result()
            said = "it had room"
        except OutOfMemory as error:
            said = str(error)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        again = engine.submit(self.packs["one token"]).result()
        engine.close()
        return {"said": said, "again": _within(again, small, 0.0)}


def _alone(count: int) -> list[Ids]:
    return grouped(np.random.default_rng(count), 0, [count])


def _first(ids: list[Ids]) -> Pack:
    return next(pack(ids, max_tokens=32768))


def _record(one: Pack, number: int) -> Ids:
    """The ids of the record whose end is `ends[number]`."""
    end = int(one.ends[number])
    span = next(n for n, (start, stop, _) in enumerate(one.spans) if start <= end < stop)
    parts: list[Ids] = []
    while span >= 0:
        start, stop, span = one.spans[span]
        parts.append(one.ids[start : min(stop, end + 1)] if not parts else one.ids[start:stop])
    return np.concatenate(parts[::-1])


def _within(found: Any, wanted: Any, most: float) -> float:
    off = float(np.abs(found - wanted).max())
    if not off <= most:
        raise AssertionError(f"off by {off:.3g}, more than {most:.3g}")
    return off


def _norm(found: Tensor, wanted: Tensor, most: float) -> float:
    """||found - wanted|| / ||wanted||"""
    off = float((found.double() - wanted).norm() / wanted.norm())
    if not off <= most:
        raise AssertionError(f"off by {off:.3g}, more than {most:.3g}")
    return off
