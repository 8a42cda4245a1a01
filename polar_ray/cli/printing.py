"""What `polar-ray score` shows as it works: rows for a person or a pipe, and how far it is."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import typer

from polar_ray.cli.app import drop_stdout
from polar_ray.cli.backend import ProgressKind
from polar_ray.data.results import write_jsonl, writing_to
from polar_ray.data.source import Source

if TYPE_CHECKING:
    from rich.table import Table

EVERY_S = 5.0
"""A JSON line of progress comes after so long."""


@dataclass(slots=True)
class Count:
    """Rows so far, and why some have no score."""

    rows: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, scores: pa.Table) -> None:
        """Counts a chunk's results."""
        self.rows += scores.num_rows
        texts = scores["error"].drop_null().to_pylist()
        self.errors.update(text.partition(":")[0] for text in texts)

    @property
    def failed(self) -> int:
        """Rows without a score."""
        return sum(self.errors.values())

    def __str__(self) -> str:
        codes = ", ".join(f"{number:,} {code}" for code, number in self.errors.most_common())
        reasons = f" ({codes})" if codes else ""
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        return f"{rows}, {self.failed:,} without a score{reasons}"


def table_of(*headers: str, **options: Any) -> Table:
    """A table for a person, in which nothing is cut: a digest goes on in the next line."""
    from rich.table import Column, Table

    columns = [Column(header, overflow="fold") for header in headers]
    return Table(*columns, title_justify="left", **options)


class Printer:
    """Rows on stdout, each chunk at once: a table for a person, JSON lines for a pipe."""

    ending = ".jsonl"

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json or not sys.stdout.isatty()
        self._row = 0

    def write(self, table: pa.Table) -> None:
        """A chunk's results, below those before."""
        self.write_rows(table.to_pylist())

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """The same of rows that need not have the same fields."""
        if not self._as_json:
            self._show(rows)
            return
        with writing_to("stdout"):
            try:
                write_jsonl(rows, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            except OSError:
                drop_stdout()
                raise

    def _show(self, rows: list[dict[str, Any]]) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        # A table for each chunk, of the same widths: a long run does not gather its rows.
        shown = Table(show_header=self._row == 0, box=None, pad_edge=False)
        for name, width in (("row", 12), ("score", 9), ("tokens", 7), ("notes", None)):
            shown.add_column(name, width=width, overflow="fold")
        for row in rows:
            notes = [row["error"]] if row["error"] else []
            notes += ["truncated"] if row["truncated"] else []
            notes += ["spells a control token"] if row["control_text"] else []
            value = "-" if row["score"] is None else f"{row['score']:.4f}"
            name = str(row.get("id", self._row))
            # Ids and errors quote the input, which may look like rich's own markup.
            shown.add_row(*map(escape, (name, value, str(row["num_tokens"]), "; ".join(notes))))
            self._row += 1
        Console().print(shown)


@contextmanager
def progress(kind: ProgressKind, count: Count, source: Source) -> Iterator[Callable[[], None]]:
    """Gives a function that shows on stderr how far the work is: to a person who sees a terminal
    there and no rows on it, or as JSON lines where asked for."""
    if kind == "json":
        with _json_lines(count, source) as show:
            yield show
    elif kind == "auto" and sys.stderr.isatty() and not sys.stdout.isatty():
        with _bar(count, source) as show:
            yield show
    else:
        yield lambda: None


@contextmanager
def _bar(count: Count, source: Source) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    size = source.size_bytes  # unknown of stdin
    known = (BarColumn(), TaskProgressColumn(), Remaining()) if size else (TimeElapsedColumn(),)
    columns = (TextColumn("{task.description}"), *known)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=size)
        yield lambda: bar.update(task, description=str(count), completed=source.done_bytes)


@contextmanager
def _json_lines(count: Count, source: Source) -> Iterator[Callable[[], None]]:
    started = told = time.monotonic()

    def tell() -> None:
        share = source.done_bytes / source.size_bytes if source.size_bytes else None
        seconds = time.monotonic() - started
        event: dict[str, Any] = {
            "event": "progress",
            "rows": count.rows,
            "errors": dict(count.errors),
            "share": None if share is None else round(share, 4),
            "seconds": round(seconds, 1),
            "eta_s": round(seconds / share - seconds, 1) if share else None,
        }
        typer.echo(orjson.dumps(event), err=True)

    def show() -> None:
        nonlocal told
        if time.monotonic() - told >= EVERY_S:
            told = time.monotonic()
            tell()

    yield show
    tell()
