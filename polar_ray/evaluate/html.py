"""A report as one HTML page: no scripts, no links, light or dark as the reader's system is."""

from __future__ import annotations

from html import escape

from polar_ray.evaluate.figures import to_svg
from polar_ray.evaluate.report import Plot, Report, Table

STYLE = """
:root { color-scheme: light dark; --page: #fcfcfa; --ink: #22252b; --faint: #646b76;
  --line: #e2e3e0; --series-0: #2f6fb5; --series-1: #c8662b; --series-2: #4d8b57;
  --series-3: #8a5aa8; }
@media (prefers-color-scheme: dark) { :root { --page: #16181c; --ink: #dfe2e7; --faint: #9aa1ac;
  --line: #30343b; --series-0: #74aee8; --series-1: #e9975f; --series-2: #86c391;
  --series-3: #bf95da; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
h3 { font-size: 0.95rem; margin: 0 0 0.4rem; }
section { display: flex; flex-wrap: wrap; gap: 1.5rem 2.5rem; align-items: flex-start;
  margin-top: 1.5rem; }
section > div { max-width: 100%; overflow-x: auto; }
figure { margin: 0; flex: 1 1 24rem; max-width: 29.75rem; } svg { max-width: 100%; height: auto; }
svg text { font-family: system-ui, sans-serif !important; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem 0.2rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th, td:not(:first-child) { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; color: var(--faint);
  font-size: 0.85rem; overflow-wrap: anywhere; } dd { margin: 0; }
"""


def to_html(title: str, reports: list[Report]) -> str:
    """A whole page; everything it shows is inside it."""
    body = "".join(_section(report, title) for report in reports)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{body}</body></html>\n"
    )


def _section(report: Report, page_title: str) -> str:
    # A page of one report has its title already.
    title = "" if report.title == page_title else f"<h2>{escape(report.title)}</h2>\n"
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in report.facts.items())
    tables = "".join(_table(table) for table in report.tables)
    plots = "".join(_plot(plot) for plot in report.plots)
    return f"{title}<dl>{facts}</dl>\n<section>{tables}</section>\n<section>{plots}</section>\n"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return f"<div><h3>{escape(table.title)}</h3><table><tr>{head}</tr>{rows}</table></div>"


def _plot(plot: Plot) -> str:
    return f"<figure><h3>{escape(plot.title)}</h3>{to_svg(plot)}</figure>"
