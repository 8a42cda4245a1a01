"""How far a job is: rows, speed, the time that is left. Pure; time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from polar_ray.offline.stats import PartReport, Stats


@dataclass(slots=True)
class Progress:
    """Of one stage of a job: "read" (JSON, for its columns), "measure" and "group" (see `layout`),
    "prove" (parts of an earlier run), "score" or "check" (all parts, at the end)."""

    stage: str
    total_bytes: int
    """Of input; time left is told by bytes, since not every format tells its rows."""

    total_rows: int | None
    started_s: float
    stats: Stats = field(default_factory=Stats)
    """All parts of the job, those of earlier runs included."""

    done_bytes: int = 0
    """Input done, by this run or an earlier one."""

    resumed_rows: int = 0
    resumed_tokens: int = 0
    resumed_bytes: int = 0

    def resume(self, report: PartReport, size_bytes: int) -> None:
        """Counts a part that an earlier run wrote."""
        self.stats.add(report)
        self.done_bytes += size_bytes
        self.resumed_rows += report.rows
        self.resumed_tokens += report.tokens
        self.resumed_bytes += size_bytes

    def add(self, report: PartReport | None, size_bytes: int) -> None:
        """Counts what this run did; in other stages than scoring there is no report."""
        if report is not None:
            self.stats.add(report)
        self.done_bytes += size_bytes

    def snapshot(self, now_s: float) -> dict[str, Any]:
        """For a person's progress line or a machine's; `eta_s` is None while it is not known."""
        seconds = max(now_s - self.started_s, 1e-9)
        done = self.done_bytes - self.resumed_bytes
        left = self.total_bytes - self.done_bytes
        return {
            "event": "progress",
            "stage": self.stage,
            "rows": self.stats.rows,
            "total_rows": self.total_rows,
            "resumed_rows": self.resumed_rows,
            "share": round(self.done_bytes / max(1, self.total_bytes), 4),
            "tokens": self.stats.tokens,
            "rows_per_s": round((self.stats.rows - self.resumed_rows) / seconds, 1),
            "tokens_per_s": round((self.stats.tokens - self.resumed_tokens) / seconds, 1),
            "seconds": round(seconds, 1),
            "eta_s": round(left * seconds / done, 1) if done else None,
            "errors": dict(sorted(self.stats.errors.items())),
        }
