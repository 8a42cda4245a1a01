"""What was found, as a share of the same rows in batches. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Found:
    """One way in one stage."""

    stage: str
    way: str
    rows: int
    seconds: float
    caller_cpu_s: float
    computed: int
    """Tokens that replicas computed meanwhile, their own health checks among them."""

    unique: int
    """Tokens that had to be computed at the least."""

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


def together(spans: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Seconds from the first process' beginning to the last one's end, and their CPU seconds."""
    began = min(span[0] for span in spans)
    return max(span[1] for span in spans) - began, sum(span[2] for span in spans)


def shares(found: Sequence[Found]) -> dict[str, dict[str, float]]:
    """For each stage, the throughput of each way over that of batches."""
    batched = {one.stage: one.rate for one in found if one.way == "batches"}
    table: dict[str, dict[str, float]] = {}
    for one in found:
        if one.stage in batched:
            table.setdefault(one.stage, {})[one.way] = one.rate / batched[one.stage]
    return table


def show(found: Sequence[Found]) -> Table:
    """All of it for people. Shares are left out where batches were not asked for."""
    table = Table(
        "in flight:processes",
        "way",
        "rows/s",
        "share of batches",
        "callers' CPU, ms a row",
        "computed / unique tokens",
    )
    by_stage = shares(found)
    for one in found:
        share = by_stage.get(one.stage, {}).get(one.way)
        table.add_row(
            one.stage,
            one.way,
            f"{one.rate:.1f}",
            "" if share is None else f"{share:.0%}",
            f"{one.caller_cpu_s / one.rows * 1e3:.1f}",
            f"{one.computed / one.unique:.3f}",
        )
    return table
