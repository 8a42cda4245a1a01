"""The work of `polar-ray score`: from a source through what scores to a sink, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import typer

from polar_ray.cli.backend import ProgressKind, Scoring
from polar_ray.cli.kept import Kept, Sink
from polar_ray.cli.printing import Count, Printer, progress
from polar_ray.client.same_model import OneModel
from polar_ray.config import ScoreConfig
from polar_ray.data.columns import Columns, columns_for, listed
from polar_ray.data.results import ResultWriter, with_scores
from polar_ray.data.rows import Objects
from polar_ray.data.source import Chunk, Source
from polar_ray.errors import ConfigError, ModelChanged
from polar_ray.records import SCORE_SCHEMA, TEXT_COLUMNS, Batch, with_row_errors


def open_sink(source: Source, output: str | None, *, as_json: bool) -> AbstractContextManager[Sink]:
    """The file `output`, or stdout. Raises `ConfigError` if results would take the place of the
    records that they are of."""
    if output is None:
        return nullcontext(Printer(as_json=as_json))
    if source.reads(Path(output)):
        raise ConfigError(f"--output {output!r} is the input file; write the results to another")
    return ResultWriter(output)


class ScoreFile:
    """Scores the rows of one source. `begin` makes what scores, which may take minutes: it is
    called once the columns are found."""

    def __init__(
        self,
        source: Source,
        config: ScoreConfig,
        begin: Callable[[], Scoring],
        max_errors: int | None,
    ) -> None:
        self._source, self._config, self._begin = source, config, begin
        self._max_errors = max_errors
        self._count, self._same = Count(), OneModel()
        self._schema: pa.Schema | None = None
        self._kept = Kept(source, config)
        self._columns: Columns
        self._scoring: Scoring
        self._told: set[str] = set()

    def run(
        self, opened: AbstractContextManager[Sink], output: str | None, kind: ProgressKind
    ) -> None:
        """Writes a result for every row. Raises `typer.Exit` where too many have no score."""
        left = "" if output is None else f"; {output} is not written"
        try:
            self._run(opened, output, kind, left)
        except KeyboardInterrupt:
            typer.echo(f"stopped: {self._count}{left}", err=True)
            raise typer.Exit(130) from None

    def _run(
        self,
        opened: AbstractContextManager[Sink],
        output: str | None,
        kind: ProgressKind,
        left: str,
    ) -> None:
        source, count = self._source, self._count
        with opened as sink, progress(kind, count, source) as show:
            self._kept.prepare(sink)
            for chunk in source.chunks():
                scores = self._score(chunk, printed=output is None)
                self._write(sink, chunk, scores)
                count.add(scores)
                show()
                if self._max_errors is not None and count.failed > self._max_errors:
                    typer.echo(
                        f"stopped: more than --max-errors {self._max_errors}: {count}{left}",
                        err=True,
                    )
                    raise typer.Exit(1)
        typer.echo(f"{count}{'' if output is None else f': {output}'}", err=True)
        if count.rows and count.failed == count.rows:
            raise typer.Exit(1)

    def _score(self, chunk: Chunk, *, printed: bool) -> pa.Table:
        if self._schema is None:
            self._choose(chunk)
            self._scoring = self._begin()
        self._announce(chunk)
        batch = self._apply(chunk)
        try:
            scores = self._same.check(self._scoring(batch.table))
        except ModelChanged as error:
            if not printed:
                raise
            said = f"the {self._same.num_rows} rows on stdout are of the former model only"
            raise ModelChanged(f"{error}; {said}") from None
        return with_row_errors(scores, batch.errors)

    def _choose(self, chunk: Chunk) -> None:
        """Finds the columns, in the files' schema or the first rows of a stream."""
        config = self._config
        self._schema = self._source.schema() if self._source.files else chunk.schema
        if len(self._schema):
            self._columns = columns_for(config, self._schema)
        else:  # no row of the sample is an object; each has its reason
            names = {name: getattr(config, name) or name for name in TEXT_COLUMNS}
            self._columns = Columns(**names, strip_think=config.strip_think)
        if not self._source.files:
            self._kept.find(self._schema)
        self._kept.check(self._schema)

    def _apply(self, chunk: Chunk) -> Batch:
        """The request of some rows: of JSON as they are, of others in the columns of all files."""
        if isinstance(chunk, Objects):
            # The rows that the columns were found in need not have had what is optional.
            return replace(self._columns, wrapper=self._columns.wrapper or "wrapper").apply(chunk)
        assert self._schema is not None, "found in `_choose`"
        return self._columns.apply(chunk.fit(self._columns.within(self._schema)))

    def _announce(self, chunk: Chunk) -> None:
        """Names each extra column once."""
        if self._config.keep_columns:
            return
        names = (
            {name for row in chunk.values for name in row}
            if isinstance(chunk, Objects)
            else {*chunk.schema.names}
        )
        used = {"wrapper", *self._kept.names}
        for path in self._columns.paths:
            used |= {path, path.partition(".")[0]}
        if new := names - used - self._told:
            typer.echo(f"ignoring extra column(s): {listed(sorted(new))}", err=True)
            self._told |= new

    def _write(self, sink: Sink, chunk: Chunk, scores: pa.Table) -> None:
        prefix = self._config.prefix
        results = scores.rename_columns([prefix + name for name in SCORE_SCHEMA.names])
        if sink.ending == ".jsonl":
            kept = self._kept.rows(chunk)
            sink.write_rows([{**k, **r} for k, r in zip(kept, results.to_pylist(), strict=True)])
        elif (columns := self._kept.columns(chunk)) is None:
            sink.write(results)
        else:
            table = with_scores(columns, scores, prefix)
            sink.write(table.replace_schema_metadata(scores.schema.metadata))
