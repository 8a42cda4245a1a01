"""Plots as SVG text that takes its colours from the page around it.

Drawn once, for light and dark pages alike: every colour is a placeholder that becomes a CSS
variable of the page.
"""

from __future__ import annotations

from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polar_ray.evaluate.report import Bars, Histogram, Lines, Plot, Scatter

# Placeholders that no other part of a figure has.
INK, FAINT = "#010203", "#040506"
SERIES = ("#110001", "#110002", "#110003", "#110004")
VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES)},
}
NUM_BINS = 40
MOST_POINTS = 5000
"""Of a scatter plot: every point is an element of the page."""


def to_svg(plot: Plot) -> str:
    """The plot as an `<svg>` element."""
    style: dict[str, Any] = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": plot.title,  # ids that differ between plots and never between runs
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(6, _height(plot)), layout="constrained")
        axes = figure.add_subplot()
        _draw(plot, axes)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(frameon=False)
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg


def _height(plot: Plot) -> float:
    return 0.8 + 0.3 * len(plot.values) if isinstance(plot, Bars) else 3.2


def _draw(plot: Plot, axes: Axes) -> None:
    if isinstance(plot, Histogram):
        _histogram(plot, axes)
    elif isinstance(plot, Bars):
        _bars(plot, axes)
    elif isinstance(plot, Lines):
        for color, (name, values) in zip(SERIES, plot.series.items(), strict=False):
            axes.plot(plot.x, values, marker="o", markersize=4, color=color, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(plot.x), [f"{x:g}" for x in plot.x])
        axes.minorticks_off()
        axes.set_ylabel(plot.y_label)
    else:
        _scatter(plot, axes)
    axes.set_xlabel(plot.x_label)


def _histogram(plot: Histogram, axes: Axes) -> None:
    values = [one for one in plot.series.values() if len(one)]
    if values:
        low, high = (f([f(one) for one in values]) for f in (np.min, np.max))
        edges = np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)
        for color, (name, one) in zip(SERIES, plot.series.items(), strict=False):
            axes.hist(one, bins=edges.tolist(), color=color, alpha=0.6, label=name)
    # What is counted: the one set says it here, several in a legend.
    axes.set_ylabel(next(iter(plot.series)) if len(plot.series) == 1 else "count")


def _bars(plot: Bars, axes: Axes) -> None:
    shown = {name: one for name, one in plot.values.items() if one.count}
    places = list(range(len(shown)))[::-1]
    values = [one.value for one in shown.values()]
    below = [one.value - one.low for one in shown.values()]
    above = [one.high - one.value for one in shown.values()]
    # A share of 1 stands on the figure's edge and is shown whole.
    axes.errorbar(
        values, places, xerr=[below, above], fmt="o", color=SERIES[0], capsize=3, clip_on=False
    )
    axes.set_yticks(places, list(shown))
    axes.set_ylim(-0.5, len(shown) - 0.5)
    axes.set_xlim(0, 1)
    if plot.even is not None:
        axes.axvline(plot.even, color=FAINT, linestyle=":")


def _scatter(plot: Scatter, axes: Axes) -> None:
    every = max(1, len(plot.x) // MOST_POINTS)
    axes.scatter(plot.x[::every], plot.y[::every], s=6, alpha=0.5, color=SERIES[0], linewidths=0)
    axes.set_ylabel(plot.y_label)
