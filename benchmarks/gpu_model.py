"""What a forward would take on an H200, on paper: kernels of a fake device, at rates assumed.

    python benchmarks/gpu_model.py [--shapes 7B,1.8B] [--products 700] [--out FILE]

Prints unique tokens a second with torch's kernels and with this project's, and where the time goes.
No rate here was measured: products, attention and memory are taken to run as `Rates` says, each
kernel after the other, with a gap between. Good for which of two ways is faster, not for how fast.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from engines.checkpoint import SHAPES
from engines.fake_cuda import FLASH, FakeCuda, Op
from engines.fake_kernels import ROWS, give_kernels
from engines.made import config_alone
from engines.workloads import MADE, group_of, grouped

from polar_ray.model.varlen import Runs, plan_runs
from polar_ray.planning import Ids, Pack, pack
from polar_ray.planning.cost import Shape, cost

FLASH_ROWS, KEYS = 128, 64
"""Query rows and keys of a tile of variable-length flash attention; keys of the path kernel's."""

COPIES = ("cat", "copy_", "clone", "flatten", "contiguous")
GATHERS = ("index_select", "index", "embedding")


@dataclass(frozen=True, slots=True)
class Rates:
    """Assumed of an H200, sustained."""

    products: float = 700e12
    """Operations a second in 16 bits."""

    products_fp8: float = 1300e12
    attention: float = 370e12
    """Operations a second over whole tiles, masked pairs included."""

    memory: float = 3.8e12
    """Bytes a second, read and written."""

    copies: float = 3e12
    gathers: float = 1.8e12
    gap: float = 1.5e-6
    """Seconds between kernels."""


def workloads() -> dict[str, list[Ids]]:
    """Groups of equal outputs, of long ones, and of lengths as real rollouts have them."""
    random = np.random.default_rng(11)

    def lengths(median: float, size: int) -> list[int]:
        drawn = median * np.exp(0.6 * random.standard_normal(size))
        return [int(length) for length in np.clip(drawn, 16, 4096)]

    return {
        "W1": [one for n in range(64) for one in group_of(16, 256, 256, 256, seed=n)],
        "W4": MADE["W4"](),
        "like rollouts": [
            one for _ in range(24) for one in grouped(random, lengths(465, 1)[0], lengths(260, 16))
        ],
    }


def tile_pairs(runs: Runs, queries: int) -> int:
    """Pairs of a query and a key in the tiles that a kernel computes, `queries` to a tile."""
    total = 0
    borders = zip(np.diff(runs.query_borders), np.diff(runs.key_borders), strict=True)
    for num_queries, num_keys in borders:
        firsts = np.arange(0, num_queries, queries)
        reach = np.minimum(num_keys, num_keys - num_queries + firsts + queries)
        total += int(queries * KEYS * np.ceil(reach / KEYS).sum())
    return total


def times(ops: Sequence[Op], attention_flops: float, layers: int, rates: Rates) -> dict[str, float]:
    """Seconds by kind of kernel. `attention_flops`: of one layer's tiles; the last layer's
    attention is of the ends alone and bound by memory."""
    found: dict[str, float] = defaultdict(float)
    calls = [op for op in ops if op.name in FLASH or op.name == "path_attention"]
    ends = calls[-1:]
    found["attention"] = (layers - 1) * attention_flops / rates.attention
    found["attention"] += sum(op.num_bytes for op in ends) / rates.gathers
    found["gaps"] = len(ops) * rates.gap
    for op in ops:
        if op in calls:
            continue
        if op.flops:
            rate = rates.products_fp8 if op.name == "_scaled_mm" else rates.products
            found["products"] += max(op.flops / rate, op.num_bytes / rates.memory)
        elif op.name in GATHERS:
            found["gathers"] += op.num_bytes / rates.gathers
        elif op.name in COPIES:
            found["copies"] += op.num_bytes / rates.copies
        else:
            found["steps"] += op.num_bytes / rates.memory
    return dict(found)


def model(folder: Path, shape: str, one: Pack, rates: Rates, **settings: Any) -> dict[str, Any]:
    """One pack on one engine; `own`: with this project's kernels, else torch's."""
    own = settings.pop("own")
    values = SHAPES[shape]
    group = values["num_attention_heads"] // values["num_key_value_heads"]
    with FakeCuda() as device:
        engine = device.engine(config_alone(folder / shape, shape), kernels=False, **settings)
        if own:
            give_kernels(device, engine, group)
        _, trace = device.submit(engine, one)
        layers = len(engine.model.model.layers)
    runs, _ = plan_runs(one.spans, one.ends.tolist(), {})
    pairs = tile_pairs(runs, ROWS // group if own else FLASH_ROWS)
    seconds = times(trace.ops, 4 * values["hidden_size"] * pairs, layers, rates)
    total = sum(seconds.values())
    least = cost(Shape(**{name: values[name] for name in Shape.__slots__}), one).flops
    return {
        "unique_tokens_per_s": one.num_tokens / total,
        "pack_ms": 1000 * total,
        "kernels": len(trace.ops),
        "share_of_products": least / total / rates.products,
        "peak_gib": trace.peak / 2**30,
        "shares": {name: seconds[name] / total for name in sorted(seconds)},
    }


WAYS: dict[str, dict[str, Any]] = {
    "torch's kernels": {"own": False},
    "this project's": {"own": True},
    "this project's, fp8": {"own": True, "dtype": "fp8"},
}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="7B,1.8B")
    parser.add_argument("--products", type=float, default=700, help="TFLOP/s, sustained")
    parser.add_argument("--max-tokens", type=int, default=32768, help="of a pack")
    parser.add_argument("--workloads", default="W1,W4,like rollouts")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(given)
    rates, found = Rates(products=arguments.products * 1e12), {}
    made = workloads()
    print(f"modelled, not measured: {asdict(rates)}")
    print(f"{'':38} {'tokens/s':>9} {'of products':>11} {'ms':>7} {'kernels':>7}  where")
    with tempfile.TemporaryDirectory() as place:
        for shape in arguments.shapes.split(","):
            for name in arguments.workloads.split(","):
                one = next(pack(made[name], max_tokens=arguments.max_tokens))
                for way, settings in WAYS.items():
                    row = model(Path(place), shape, one, rates, prefix_cache_bytes=0, **settings)
                    found[f"{shape} {name}, {way}"] = row
                    where = " ".join(f"{k} {100 * v:.1f}" for k, v in row["shares"].items())
                    print(
                        f"{shape + ' ' + name + ', ' + way:38} {row['unique_tokens_per_s']:9,.0f} "
                        f"{row['share_of_products']:11.1%} {row['pack_ms']:7.1f} "
                        f"{row['kernels']:7}  {where}",
                        flush=True,
                    )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
