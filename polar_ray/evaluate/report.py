"""What an evaluation says, before anybody decides how it looks: tables, plots, and plain figures.

A terminal, JSON and HTML (`polar_ray.evaluate.html`) show the same `Report`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from polar_ray.evaluate.agreement import Agreement
from polar_ray.evaluate.estimate import Estimate, Floats
from polar_ray.evaluate.groups import Ranking
from polar_ray.evaluate.preferences import Preferences


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text already; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a value falls between two edges, for one or more sets of values."""

    title: str
    x_label: str
    series: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Bars:
    """Estimates side by side; `even` marks what chance would give."""

    title: str
    x_label: str
    values: dict[str, Estimate]
    even: float | None = 0.5


@dataclass(frozen=True, slots=True)
class Lines:
    """Curves over common x values."""

    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    series: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Scatter:
    """One value against another."""

    title: str
    x_label: str
    y_label: str
    x: Floats
    y: Floats


Plot = Histogram | Bars | Lines | Scatter


@dataclass(frozen=True, slots=True)
class Report:
    """One evaluation. `facts` say what was evaluated; `figures` are for programs."""

    title: str
    facts: Mapping[str, str]
    figures: dict[str, Any]
    tables: list[Table]
    plots: list[Plot] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Facts and figures; numbers that do not exist are null."""
        return {"title": self.title, "facts": dict(self.facts), "figures": _finite(self.figures)}


def report_preferences(
    found: Preferences, margins: Floats, facts: Mapping[str, str], title: str
) -> Report:
    """Of preference pairs; `margins` [pairs] may hold NaN."""
    rows = [("all pairs", *_cells(found.accuracy))]
    rows += [(name, *_cells(value)) for name, value in found.by_category.items()]
    lengths = [(name, *_cells(value)) for name, value in found.by_length.items()]
    if found.prefers_longer is not None and found.chosen_is_longer is not None:
        lengths.append(("scores prefer the longer", *_cells(found.prefers_longer)))
        lengths.append(("people chose the longer", *_cells(found.chosen_is_longer)))
    margin = [(name, number(value)) for name, value in found.margin_quantiles.items()]
    margin.append(("mean", number(found.margin_mean)))
    counts = [
        (f"ties within {found.tie_within:g} (half right)", str(found.ties)),
        ("without a score", str(found.unscored)),
    ]
    tables = [Table("Preference accuracy", ("pairs", "accuracy", "95 %", "count"), rows)]
    if lengths:
        tables.append(Table("By length", ("pairs", "share", "95 %", "count"), lengths))
    tables.append(Table("Margin, chosen minus rejected", ("", "score"), margin))
    tables.append(Table("Counts", ("", "pairs"), counts))
    bars: dict[str, Estimate] = found.by_category or {"all pairs": found.accuracy}
    plots: list[Plot] = [Bars("Accuracy by category", "accuracy", bars)]
    if found.by_length:
        plots.append(Bars("Accuracy by length", "accuracy", found.by_length))
    finite = margins[np.isfinite(margins)]
    plots.append(Histogram("Margins", "chosen minus rejected", {"pairs": finite}))
    return Report(title, facts, asdict(found), tables, plots)


def report_ranking(
    found: Ranking, scores: Floats, labels: Floats, facts: Mapping[str, str], title: str
) -> Report:
    """Of labelled groups."""
    main = [
        ("pairwise accuracy within groups", *_cells(found.pairwise)),
        ("AUC over all rows", number(found.auc), "", str(found.rows)),
    ]
    curve = [
        (str(one.n), number(one.random), number(one.chosen), number(one.best), str(one.groups))
        for one in found.best_of
    ]
    counts = [
        ("groups", str(found.groups)),
        ("rows", str(found.rows)),
        ("without a score", str(found.unscored)),
        ("scores are a tie within", f"{found.tie_within:g}"),
    ]
    tables = [
        Table("Ranking", ("", "value", "95 %", "count"), main),
        Table("Best of N: mean label", ("N", "random", "by score", "perfect", "groups"), curve),
        Table("Counts", ("", ""), counts),
    ]
    finite = np.isfinite(scores)
    kinds = np.unique(labels[finite])
    series = {f"label {kind:g}": scores[finite & (labels == kind)] for kind in kinds[:4]}
    lines = {
        name: [getattr(one, key) for one in found.best_of]
        for name, key in (("by score", "chosen"), ("random", "random"), ("perfect", "best"))
    }
    plots: list[Plot] = [
        Lines("Best of N", "N", "mean label", [one.n for one in found.best_of], lines),
        Histogram("Scores", "score", series if len(kinds) <= 4 else {"all": scores[finite]}),
    ]
    return Report(title, facts, asdict(found), tables, plots)


def report_agreement(
    found: Agreement, one: Floats, other: Floats, facts: Mapping[str, str], title: str
) -> Report:
    """Of two scorings of the same rows."""
    rows = [
        ("Pearson", number(found.pearson)),
        ("Spearman", number(found.spearman)),
        ("Kendall tau-b", number(found.kendall)),
        ("Spearman, mean within groups", number(found.spearman_in_groups)),
        ("mean absolute difference", number(found.mean_abs_difference)),
        ("largest absolute difference", number(found.max_abs_difference)),
    ]
    if found.top1 is not None:
        value, interval, count = _cells(found.top1)
        rows.append(("same first in a group", f"{value} ({interval}; {count} groups)"))
    rows += [("rows", str(found.rows)), ("without both scores", str(found.unscored))]
    rows.append(("scores are a tie within", f"{found.tie_within:g}"))
    both = np.isfinite(one) & np.isfinite(other)
    plots: list[Plot] = [
        Scatter("The two scorings", "one", "other", one[both], other[both]),
        Histogram("Differences", "one minus other", {"rows": one[both] - other[both]}),
    ]
    return Report(title, facts, asdict(found), [Table("Agreement", ("", "value"), rows)], plots)


def report_distribution(
    scores: Floats, facts: Mapping[str, str], title: str, groups: Floats | None = None
) -> Report:
    """Of scores without labels: how they lie."""
    finite = scores[np.isfinite(scores)]
    shares = (0, 5, 25, 50, 75, 95, 100)
    values: dict[str, float] = {}
    if len(finite):
        found = np.percentile(finite, shares)
        values = {f"{share}%": float(x) for share, x in zip(shares, found, strict=True)}
        values |= {"mean": float(finite.mean()), "standard deviation": float(finite.std())}
    series = {"rows": finite}
    plots: list[Plot] = [Histogram("Scores", "score", series)]
    if groups is not None and len(groups):
        values["mean standard deviation within groups"] = float(groups.mean())
        plots.append(Histogram("Spread within groups", "standard deviation", {"groups": groups}))
    unscored = int(len(scores) - len(finite))
    table = Table("Scores", ("", "value"), [(k, number(v)) for k, v in values.items()])
    counts = [("rows", str(len(scores))), ("without a score", str(unscored))]
    figures = {**values, "rows": len(scores), "unscored": unscored}
    return Report(title, facts, figures, [table, Table("Counts", ("", ""), counts)], plots)


def number(value: float) -> str:
    """Four digits, or a dash for what does not exist."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.2g}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def _cells(estimate: Estimate) -> tuple[str, str, str]:
    interval = f"{number(estimate.low)} .. {number(estimate.high)}" if estimate.count else "-"
    return number(estimate.value), interval, str(estimate.count)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
