"""How the gain grows: with the size of groups, the share of their prefix, and the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.worker import NO_REUSE, OURS
from engines.workloads import group_of
from polar_ray.planning import Ids, pack
from polar_ray.planning.cost import Shape, cost, unshared

Run = Callable[..., dict[str, Any] | None]
"""Competitor and ids to a report."""

GROUP_SIZES = [1, 2, 4, 8, 16, 32, 64]
REFERENCES = [0, 128, 256, 512, 1024]
BATCHES = [1, 2, 4, 8, 16]
ENGINES = (OURS, NO_REUSE)


def measure_growth(run: Run, shape: Shape) -> dict[str, list[dict[str, Any]]]:
    """Points of three curves; each holds CPU seconds and planned operations of both engines."""

    def point(at: int, ids: list[Ids]) -> dict[str, Any]:
        found: dict[str, Any] = {"at": at, "records": len(ids)}
        for engine in ENGINES:
            measured = run(engine, ids, count=False)
            if measured is None:
                raise RuntimeError(f"no point at {at}: {engine} failed")
            found[engine] = {"cpu_s": measured["cpu_s"], "flops": _flops(shape, engine, ids)}
        return found

    return {
        "group size": [point(n, group_of(n, 64, 128, 128)) for n in GROUP_SIZES],
        "prefix tokens": [point(128 + n + 3, group_of(8, 64, n, 128)) for n in REFERENCES],
        "groups of 4 in a batch": [point(n, _groups(n)) for n in BATCHES],
    }


def _flops(shape: Shape, engine: str, ids: list[Ids]) -> int:
    if engine == NO_REUSE:
        return unshared(shape, map(len, ids)).flops
    return sum(cost(shape, one).flops for one in pack(ids, max_tokens=1 << 20))


def _groups(count: int) -> list[Ids]:
    return [one for seed in range(count) for one in group_of(4, 32, 64, 64, seed=seed)]


def plot_growth(curves: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """One PNG for each curve: records per CPU second, and the gain beside what FLOPs predict."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for name, points in curves.items():
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
        at = [point["at"] for point in points]
        for engine in ENGINES:
            speed = [point["records"] / point[engine]["cpu_s"] for point in points]
            left.plot(at, speed, marker="o", label=engine)
        for value, label in (("cpu_s", "measured"), ("flops", "by operations")):
            gain = [point[NO_REUSE][value] / point[OURS][value] for point in points]
            right.plot(at, gain, marker="o", label=label)
        left.set(xlabel=name, ylabel="records per CPU second", ylim=(0, None))
        right.set(xlabel=name, ylabel="times the unshared engine", ylim=(0, None))
        for axes in (left, right):
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(folder / f"{name.replace(' ', '_')}.png", dpi=120)
        pyplot.close(figure)
