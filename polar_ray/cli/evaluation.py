"""`polar-ray eval`: preference files, labelled groups, and the agreement of two scorings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polar_ray.cli.app import Overrides, cli, errors_on_stderr, parse_config
from polar_ray.config import ScorerConfig
from polar_ray.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from polar_ray.evaluate.estimate import Floats
    from polar_ray.evaluate.report import Report

evaluate = typer.Typer(help="Tables that reward models are compared by.", no_args_is_help=True)
cli.add_typer(evaluate, name="eval")

File = Annotated[str, typer.Argument(help="parquet, Arrow or jsonl: a file, a glob or a folder.")]
Model = Annotated[
    str | None, typer.Option(help="Checkpoint to score with, where the file has no scores yet.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page with plots to this file.")]
Title = Annotated[str | None, typer.Option(help="Heading of the report.")]
GroupBy = Annotated[
    str | None, typer.Option(help="Column that names a row's group; else prompt and reference.")
]


@evaluate.command("preferences")
def eval_preferences(
    file: File,
    overrides: Overrides = None,
    model: Model = None,
    chosen: Annotated[str, typer.Option(help="Column of scores.")] = "chosen_score",
    rejected: Annotated[str, typer.Option(help="Column of scores.")] = "rejected_score",
    category: Annotated[str, typer.Option(help="Column, where there is one.")] = "category",
    title: Title = None,
    json: Json = None,
    html: Html = None,
) -> None:
    """Accuracy on (prompt, reference, chosen, rejected): by category, by length, and margins."""
    with errors_on_stderr("eval"):
        from polar_ray.evaluate import preferences, read
        from polar_ray.evaluate.report import report_preferences

        table = read.load(file)
        facts = {"file": Path(file).name}
        if {chosen, rejected} <= set(table.column_names):
            scores = [read.scores(table, name) for name in (chosen, rejected)]
        else:
            scores, made = _score(table, ["chosen", "rejected"], model, overrides)
            facts |= made
        lengths = [
            read.text_lengths(table, name) if name in table.column_names else None
            for name in ("chosen", "rejected")
        ]
        found = preferences(
            *scores,
            categories=table[category].to_pylist() if category in table.column_names else None,
            chosen_lengths=lengths[0],
            rejected_lengths=lengths[1],
        )
        margins = scores[0] - scores[1]
        _show(report_preferences(found, margins, facts, title or "Preferences"), json, html)


@evaluate.command("groups")
def eval_groups(
    file: File,
    overrides: Overrides = None,
    label: Annotated[str, typer.Option(help="Column of labels; more is better.")] = "correct",
    group: GroupBy = None,
    score: Annotated[str, typer.Option(help="Column of scores.")] = "score",
    model: Model = None,
    title: Title = None,
    json: Json = None,
    html: Html = None,
) -> None:
    """Labelled groups: pairwise accuracy, best of N, AUC. Without labels: how the scores lie."""
    with errors_on_stderr("eval"):
        from polar_ray.evaluate import ranking, read
        from polar_ray.evaluate.groups import spreads
        from polar_ray.evaluate.report import report_distribution, report_ranking

        table = read.load(file)
        facts = {"file": Path(file).name, **read.provenance(table)}
        if score in table.column_names:
            scores = read.scores(table, score)
        else:
            [scores], made = _score(table, ["output"], model, overrides)
            facts |= made
        names = read.names(table, _group_columns(table, group))
        if label in table.column_names:
            labels = read.labels(table, label)
            found = ranking(scores, labels, names)
            report = report_ranking(found, scores, labels, facts, title or "Labelled groups")
        else:
            spread = spreads(scores, names)
            report = report_distribution(scores, facts, title or "Groups", spread)
        _show(report, json, html)


@evaluate.command("agreement")
def eval_agreement(
    one: File,
    other: Annotated[str, typer.Argument(help="The same rows, in the same order.")],
    score: Annotated[str, typer.Option(help="Column of scores in the first.")] = "score",
    other_score: Annotated[
        str | None, typer.Option(help="Column in the second, if it has another name.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Column by which rows are matched instead of their order.")
    ] = None,
    group: GroupBy = None,
    title: Title = None,
    json: Json = None,
    html: Html = None,
) -> None:
    """Two scorings of the same rows: Pearson, Spearman, Kendall, and who is first in a group."""
    with errors_on_stderr("eval"):
        from polar_ray.evaluate import agreement, read
        from polar_ray.evaluate.report import report_agreement

        first, second = read.load(one), read.load(other)
        second = read.matched(first, second, key)
        columns = [score, other_score or score]
        a, b = (read.scores(t, name) for t, name in zip((first, second), columns, strict=True))
        facts = {
            "one": f"{Path(one).name}: {columns[0]}",
            "other": f"{Path(other).name}: {columns[1]}",
        }
        has_groups = group is not None or {"prompt", "reference"} <= set(first.column_names)
        names = read.names(first, _group_columns(first, group)) if has_groups else None
        found = agreement(a, b, names)
        _show(report_agreement(found, a, b, facts, title or "Agreement"), json, html)


def _group_columns(table: pa.Table, group: str | None) -> list[str]:
    wanted = [group] if group is not None else ["prompt", "reference"]
    if missing := [name for name in wanted if name not in table.column_names]:
        raise ConfigError(f"no column {', '.join(missing)} to group by; name one with --group")
    return wanted


def _score(
    table: pa.Table, outputs: list[str], model: str | None, overrides: list[str] | None
) -> tuple[list[Floats], dict[str, str]]:
    """Scores of the rows, once for each column of outputs, and what made them."""
    import numpy as np

    from polar_ray.evaluate import read
    from polar_ray.scorer import Scorer

    if missing := [n for n in ("prompt", "reference", *outputs) if n not in table.column_names]:
        raise ConfigError(f"no scores, and no column {', '.join(missing)} to make them from")
    config = parse_config(ScorerConfig, {} if model is None else {"model": model}, overrides)
    scorer = Scorer(config)
    found = []
    for name in outputs:
        columns = ["prompt", "reference", name]
        columns += ["wrapper"] if "wrapper" in table.column_names else []
        records = table.select(columns)
        renamed = ["output" if column == name else column for column in records.column_names]
        rows = records.rename_columns(renamed).to_pylist()  # messages or strings
        parts = [scorer.score(rows[at : at + 4096]) for at in range(0, max(1, len(rows)), 4096)]
        found.append(np.concatenate([read.scores(part, "score") for part in parts]))
    made = scorer.provenance
    scorer.close()
    return found, made


def _show(report: Report, json: Path | None, html: Path | None) -> None:
    """A table for a person, JSON for a pipe, and the files that were asked for."""
    import sys

    import orjson

    text = orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2).decode() + "\n"
    if json is not None:
        json.write_text(text, encoding="utf-8")
    if html is not None:
        from polar_ray.evaluate.html import to_html

        html.write_text(to_html(report.title, [report]), encoding="utf-8")
    if not sys.stdout.isatty():
        typer.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for table in report.tables:
        shown = Table(*map(escape, table.columns), title=table.title, title_justify="left")
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(shown)
