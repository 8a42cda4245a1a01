"""`polar-ray eval`: preference files, labelled groups, and the agreement of two scorings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polar_ray.cli.app import SETTINGS_FILE, cli, errors_on_stderr, parse_settings
from polar_ray.cli.backend import (
    INPUT_HELP,
    Address,
    Backend,
    Format,
    Model,
    Scoring,
    TimeoutS,
    TokenFile,
)
from polar_ray.config import ColumnsConfig, EvalConfig, PreferencesConfig
from polar_ray.errors import ConfigError
from polar_ray.scores import BATCHING_TOLERANCE

if TYPE_CHECKING:
    import pyarrow as pa

    from polar_ray.data.columns import Columns
    from polar_ray.data.source import Source
    from polar_ray.evaluate.estimate import Floats
    from polar_ray.evaluate.report import Report

COLUMNS = ("prompt", "reference", "output", "wrapper", "chosen", "rejected")
"""Settings that name columns."""

evaluate = typer.Typer(help="Tables that reward models are compared by.", no_args_is_help=True)
cli.add_typer(evaluate, name="eval")

File = Annotated[str, typer.Argument(help="- for stdin, or " + INPUT_HELP)]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        help=f"{SETTINGS_FILE} columns (prompt=question), engine.device=cpu.",
        show_default=False,
    ),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page with plots to this file.")]
Title = Annotated[str | None, typer.Option(help="Heading of the report.")]
SCORES = "Column of scores, else NAME_score where there is one"
TieWithin = Annotated[
    float,
    typer.Option(help="Scores that differ by at most this are a tie; batching moves them by less."),
]
GroupBy = Annotated[
    str | None, typer.Option(help="Column that names a row's group; else prompt and reference.")
]


@evaluate.command("preferences")
def eval_preferences(
    file: File,
    settings: Settings = None,
    model: Model = None,
    address: Address = None,
    chosen: Annotated[
        str | None, typer.Option("--chosen", help=f"{SCORES}; chosen=COLUMN is that of texts.")
    ] = None,
    rejected: Annotated[
        str | None, typer.Option("--rejected", help=f"{SCORES}; rejected=COLUMN is that of texts.")
    ] = None,
    category: Annotated[
        str | None, typer.Option(help="Column; else category, where there is one.")
    ] = None,
    tie_within: TieWithin = BATCHING_TOLERANCE,
    format: Format = None,
    timeout_s: TimeoutS = None,
    token_file: TokenFile = None,
    title: Title = None,
    json: Json = None,
    html: Html = None,
) -> None:
    """Accuracy on (prompt, reference, chosen, rejected): by category, by length, and margins."""
    with errors_on_stderr("eval"):
        from polar_ray.data.columns import has
        from polar_ray.data.source import Source, load
        from polar_ray.evaluate import preferences, read
        from polar_ray.evaluate.report import report_preferences

        given = {} if model is None else {"model": model}
        config = parse_settings(PreferencesConfig, given, settings)
        backend = Backend(config, address, timeout_s, token_file, usual_priority="eval")
        _check_tie(tie_within)
        source = Source(file, format=format)
        _check_places([source], json, html)
        schema = source.schema()
        _check_named(config, schema, chosen, rejected, category)
        category = category or "category"
        columns = [chosen or "chosen_score", rejected or "rejected_score"]
        facts, paths = {"file": Path(file).name}, [config.chosen, config.rejected]
        optional = [name for name in (category, *paths) if has(schema, name)]
        if chosen or rejected or all(has(schema, name) for name in columns):
            backend.check_unused(f"{' and '.join(columns)} hold scores")
            table = load(source, [*columns, *optional])
            scores = [read.scores(table, name) for name in columns]
        else:
            sides = [_columns(config, schema, path) for path in paths]
            scoring = backend.open()
            table = load(source, [*optional, *sides[0].paths, *sides[1].paths])
            scores, made = _score(table, sides, scoring)
            facts |= made
        named: list[str] | None = None
        if category in table.column_names:
            named = read.categories(table, category)
        texts = [
            read.outputs(table, path, strip_think=config.strip_think)
            for path in paths
            if path in table.column_names
        ]
        both = len(texts) == 2
        found = preferences(
            *scores,
            same=read.equal(*texts) if both else None,
            tie_within=tie_within,
            categories=named,
            chosen_lengths=read.lengths(texts[0]) if both else None,
            rejected_lengths=read.lengths(texts[1]) if both else None,
        )
        margins = scores[0] - scores[1]
        _show(report_preferences(found, margins, facts, title or "Preferences"), json, html)


@evaluate.command("groups")
def eval_groups(
    file: File,
    settings: Settings = None,
    label: Annotated[
        str | None,
        typer.Option(help="Column of labels, more is better; else correct, where there is one."),
    ] = None,
    group: GroupBy = None,
    score: Annotated[
        str | None, typer.Option(help="Column of scores; else score, where there is one.")
    ] = None,
    model: Model = None,
    address: Address = None,
    tie_within: TieWithin = BATCHING_TOLERANCE,
    format: Format = None,
    timeout_s: TimeoutS = None,
    token_file: TokenFile = None,
    title: Title = None,
    json: Json = None,
    html: Html = None,
) -> None:
    """Labelled groups: pairwise accuracy, best of N, AUC. Without labels: how the scores lie."""
    with errors_on_stderr("eval"):
        from polar_ray.data.columns import has
        from polar_ray.data.source import Source, load
        from polar_ray.evaluate import ranking, read
        from polar_ray.evaluate.groups import spreads
        from polar_ray.evaluate.report import report_distribution, report_ranking

        given = {} if model is None else {"model": model}
        config = parse_settings(EvalConfig, given, settings)
        backend = Backend(config, address, timeout_s, token_file, usual_priority="eval")
        _check_tie(tie_within)
        source = Source(file, format=format)
        _check_places([source], json, html)
        schema = source.schema()
        _check_named(config, schema, label, score)
        label, score = label or "correct", score or "score"
        groups = _group_columns(config, schema, group)
        wanted = [name for name in (label, score, *groups) if has(schema, name)]
        if has(schema, score):
            backend.check_unused(f"{score} holds scores")
            table = load(source, wanted)
            scores, made = read.scores(table, score), read.provenance(table)
        else:
            columns = _columns(config, schema, config.output)
            scoring = backend.open()
            table = load(source, [*wanted, *columns.paths])
            [scores], made = _score(table, [columns], scoring)
        facts = {"file": Path(file).name, **made}
        names = read.names(table, groups)
        if label in table.column_names:
            labels = read.labels(table, label)
            found = ranking(scores, labels, names, tie_within=tie_within)
            report = report_ranking(found, scores, labels, facts, title or "Labelled groups")
        else:
            spread = spreads(scores, names)
            report = report_distribution(scores, facts, title or "Groups", spread)
        _show(report, json, html)


@evaluate.command("agreement")
def eval_agreement(
    one: File,
    other: Annotated[str, typer.Argument(help="The same rows, in the same order, or --key.")],
    settings: Settings = None,
    score: Annotated[str, typer.Option(help="Column of scores in the first.")] = "score",
    other_score: Annotated[
        str | None, typer.Option(help="Column in the second, if it has another name.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Column by which rows are matched instead of their order.")
    ] = None,
    group: GroupBy = None,
    tie_within: TieWithin = BATCHING_TOLERANCE,
    format: Format = None,
    title: Title = None,
    json: Json = None,
    html: Html = None,
) -> None:
    """Two scorings of the same rows: Pearson, Spearman, Kendall, and who is first in a group."""
    with errors_on_stderr("eval"):
        from polar_ray.data.columns import has
        from polar_ray.data.source import Source
        from polar_ray.evaluate import agreement, read
        from polar_ray.evaluate.report import report_agreement
        from polar_ray.records import TEXT_COLUMNS

        sources = [Source(file, format=format) for file in (one, other)]
        _check_places(sources, json, html)
        schemas = [source.schema() for source in sources]
        columns = [score, other_score or score]
        config = parse_settings(ColumnsConfig, {}, settings)
        _check_tie(tie_within)
        _check_named(config, schemas[0])
        has_groups = group is not None or all(
            getattr(config, name) or has(schemas[0], name) for name in ("prompt", "reference")
        )
        groups = _group_columns(config, schemas[0], group) if has_groups else []
        paths = ["id", *(getattr(config, name) or name for name in TEXT_COLUMNS)]
        same = [name for name in paths if all(has(schema, name) for schema in schemas)]
        keys = same if key is None else [key]
        first, second = (
            _load(source, file, [column, *keys, *more])
            for source, file, column, more in (
                (sources[0], one, columns[0], groups),
                (sources[1], other, columns[1], []),
            )
        )
        second = read.matched(first, second, key, same)
        a, b = (read.scores(t, name) for t, name in zip((first, second), columns, strict=True))
        facts = {}
        for side, file, table, column in (
            ("one", one, first, columns[0]),
            ("other", other, second, columns[1]),
        ):
            facts[side] = f"{Path(file).name}: {column}"
            facts |= {f"{side} {name}": value for name, value in read.provenance(table).items()}
        names = read.names(first, groups) if groups else None
        found = agreement(a, b, names, tie_within=tie_within)
        _show(report_agreement(found, a, b, facts, title or "Agreement"), json, html)


def _load(source: Source, file: str, columns: Sequence[str]) -> pa.Table:
    """`load`, with the file's name in what is wrong with its columns."""
    from polar_ray.data.source import load

    try:
        return load(source, columns)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _check_places(sources: Sequence[Source], json: Path | None, html: Path | None) -> None:
    """`ConfigError` where a report could not be written, or would take its input's place."""
    from polar_ray.data.results import check_place

    for option, place in (("--json", json), ("--html", html)):
        if place is None:
            continue
        check_place(place, option)
        if any(source.reads(place) for source in sources):
            raise ConfigError(f"{option} {str(place)!r} is the input file; write to another")
    if json is not None and json == html:
        raise ConfigError(f"--json and --html are both {str(json)!r}; name two files")


def _check_tie(tie_within: float) -> None:
    """`ConfigError` for what is no difference of scores."""
    if not 0 <= tie_within < float("inf"):
        raise ConfigError(f"--tie-within {tie_within:g}: it must be a number of at least 0")


def _check_named(config: ColumnsConfig, schema: pa.Schema, *options: str | None) -> None:
    """`ConfigError` where a column that somebody named is not there. Only usual names may be."""
    from polar_ray.data.columns import find

    given = [getattr(config, name) for name in COLUMNS if name in config.model_fields_set]
    for path in (*options, *given):
        if path is not None:
            find(schema.empty_table(), path)


def _group_columns(config: ColumnsConfig, schema: pa.Schema, group: str | None) -> list[str]:
    from polar_ray.data.columns import find, path_of

    if group is not None:
        find(schema.empty_table(), group)
        return [group]
    try:
        given = {"prompt": config.prompt, "reference": config.reference}
        return [path_of(schema, name, path) for name, path in given.items()]
    except ConfigError as error:
        raise ConfigError(f"{error}; or name the column of groups with --group") from None


def _columns(config: EvalConfig, schema: pa.Schema, output: str | None) -> Columns:
    """The columns of records with the outputs at a path."""
    from polar_ray.data.columns import columns_for

    try:
        return columns_for(config.model_copy(update={"output": output}), schema)
    except ConfigError as error:
        raise ConfigError(f"there are no scores, and to make them: {error}") from None


def _score(
    table: pa.Table, columns: Sequence[Columns], scoring: Scoring
) -> tuple[list[Floats], dict[str, str]]:
    """Scores of the rows, once by each of the columns, and what made them."""
    import numpy as np

    from polar_ray.client.same_model import OneModel
    from polar_ray.data.source import in_chunks
    from polar_ray.evaluate import read

    same, made, found = OneModel(), {}, []
    for one_side in columns:
        parts = [np.empty(0)]
        for rows in in_chunks(table):
            scores = same.check(scoring(one_side.apply(rows).table))
            parts.append(read.scores(scores, "score"))
            made = read.provenance(scores)
        found.append(np.concatenate(parts))
    return found, made


def _show(report: Report, json: Path | None, html: Path | None) -> None:
    """A table for a person, JSON for a pipe, and the files that were asked for."""
    import sys

    import orjson

    text = orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2).decode() + "\n"
    if json is not None:
        _write(json, text)
    if html is not None:
        from polar_ray.evaluate.html import to_html

        _write(html, to_html(report.title, [report]))
    if not sys.stdout.isatty():
        typer.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markup import escape

    from polar_ray.cli.printing import table_of

    console = Console()
    facts = table_of("", "", show_header=False)
    for name, value in report.facts.items():
        facts.add_row(escape(name), escape(value))
    console.print(facts)
    for table in report.tables:
        shown = table_of(*map(escape, table.columns), title=table.title)
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(shown)


def _write(path: Path, text: str) -> None:
    """A file appears whole; a link, a pipe or a device (/dev/stdout) is written to as it is."""
    from polar_ray.data.results import writing_to
    from polar_ray.data.storage import place, write_whole

    with writing_to(str(path)):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text, encoding="utf-8")
        else:
            write_whole(place(str(path.parent)), path.name, text.encode())
