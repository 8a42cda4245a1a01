"""What a part says of itself, and the sum of what many say. Pure; in and out of JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BIN_WIDTH = 0.25
"""Of the score histogram; its edges are multiples of it, so that histograms add up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """Of one part; stands in its metadata."""

    rows: int
    errors: dict[str, int]
    """Rows without a score, by the code of their error."""

    truncated: int
    control_text: int
    tokens: int
    histogram: dict[str, int]
    """Scored rows by the number of their bin, `floor(score / BIN_WIDTH)`."""


def report_of(scores: pa.Table) -> PartReport:
    """Of a result table."""
    values = scores["score"].drop_null().to_numpy()
    bins, counts = np.unique(np.floor(values / BIN_WIDTH).astype(int), return_counts=True)
    codes = (str(text).partition(":")[0] for text in scores["error"].drop_null().to_pylist())
    return PartReport(
        rows=scores.num_rows,
        errors=dict(Counter(codes)),
        truncated=pc.sum(scores["truncated"]).as_py() or 0,
        control_text=pc.sum(scores["control_text"]).as_py() or 0,
        tokens=pc.sum(scores["num_tokens"]).as_py() or 0,
        histogram={str(b): int(n) for b, n in zip(bins.tolist(), counts.tolist(), strict=True)},
    )


@dataclass(slots=True)
class Stats:
    """The sum of part reports."""

    parts: int = 0
    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    control_text: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    histogram: Counter[str] = field(default_factory=Counter)

    def add(self, report: PartReport) -> None:
        """One more part."""
        self.parts += 1
        self.rows += report.rows
        self.tokens += report.tokens
        self.truncated += report.truncated
        self.control_text += report.control_text
        self.errors.update(report.errors)
        self.histogram.update(report.histogram)

    @property
    def num_errors(self) -> int:
        """Rows without a score."""
        return self.errors.total()

    def bars(self) -> list[tuple[float, int]]:
        """The histogram as (lower edge, rows), ascending, empty bins between included."""
        if not self.histogram:
            return []
        numbers = [int(number) for number in self.histogram]
        return [
            (number * BIN_WIDTH, self.histogram[str(number)])
            for number in range(min(numbers), max(numbers) + 1)
        ]

    def to_json(self) -> dict[str, Any]:
        """For the manifest and for machines; the histogram by the lower edges of its bins."""
        values = asdict(self)
        values["errors"] = dict(sorted(self.errors.items()))
        numbers = sorted(self.histogram, key=int)
        values["histogram"] = {str(int(n) * BIN_WIDTH): self.histogram[n] for n in numbers}
        return {**values, "num_errors": self.num_errors, "histogram_bin_width": BIN_WIDTH}
