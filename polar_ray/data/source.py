"""An input that is read once, from its beginning to its end, a chunk of rows at a time: files of
any format, or a pipe."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from polar_ray.data.arrow import checked, open_arrow
from polar_ray.data.columns import field_at, find
from polar_ray.data.csv_text import csv_rows
from polar_ray.data.formats import FAILURES, SAMPLE_ROWS, held, unreadable
from polar_ray.data.json_text import CHUNK_BYTES, objects
from polar_ray.data.parquet import open_parquet
from polar_ray.data.rows import Objects, Rows, Unreadable
from polar_ray.data.schemas import Held, together
from polar_ray.data.storage import InputFile, list_files, place
from polar_ray.data.stream import (
    STDIN,
    Stream,
    check_format,
    format_of,
    is_pipe,
    open_file,
    open_pipe,
)
from polar_ray.data.written import check_written

Chunk: TypeAlias = Rows | Objects
CHUNK_ROWS = 1024
RAMP = (16, 64, 256)
"""Rows of the first chunks: whoever waits for the first result does not wait for a thousand."""


class Source:
    """The rows of a path, a glob, a folder or a URI, or of stdin ("-"), in order.

    Raises `ConfigError` if there is no such file; what cannot be read is `Unreadable`, a row that
    cannot is an error of its own. `format`: where no ending tells it, as of stdin.
    """

    def __init__(self, uri: str, *, format: str | None = None) -> None:
        self._format = check_format(format)
        self.files: list[InputFile] = []
        self._once: Stream | None = None
        self._title = "stdin" if uri == STDIN else uri
        self._spooled: Any = None
        self._done = 0
        self._here: Callable[[], int] = int
        if is_pipe(uri):
            self._once = open_pipe(uri)
        else:
            self.files = list_files(uri, self._format)
            self._filesystem = place(uri).filesystem

    @property
    def size_bytes(self) -> int | None:
        """Of all files; None for a pipe."""
        return sum(file.size_bytes for file in self.files) if self.files else None

    @property
    def done_bytes(self) -> int:
        """About how many of them have been read."""
        return self._done + self._here()

    def reads(self, path: Path) -> bool:
        """Whether a path is one of its files."""
        return path.exists() and any(
            Path(file.path).exists() and path.samefile(file.path) for file in self.files
        )

    @property
    def is_stream(self) -> bool:
        """Whether its columns are known only as its rows come: a pipe of text."""
        return self._once is not None and self._kind(self._once) not in ("parquet", "arrow")

    def schema(self, *, whole: bool = False) -> pa.Schema:
        """The columns of all files together; those of JSON as they are most likely meant, by the
        first rows of each, or with `whole`, which reads all rows, as they can be written. What the
        first file says of itself is in the metadata."""
        found = self._held(whole=whole)
        metadata = getattr(found[0][1], "metadata", None)
        return together(found, likely=not whole).with_metadata(metadata)

    def written(self, ending: str) -> pa.Schema | None:
        """The columns in which all rows can be written to a file of this ending, one of
        `results.ENDINGS`; None for JSON lines, whose rows have each their own. Raises `ConfigError`
        that names file and column where such a file would not give the values back."""
        if ending != ".jsonl":
            found = self._held(whole=True)
            schema = together(found)
            check_written(schema, ending, found)
            return schema
        if self.is_stream:
            return None
        for name, schema in self._held():
            if isinstance(schema, pa.Schema):
                check_written(schema, ending, [(name, schema)])
        return None

    def _held(self, *, whole: bool = False) -> list[tuple[str, Held]]:
        if self._once is not None:
            self._spool(self._once, self._kind(self._once))
        named = [(self._name(file), file) for file in self.files]
        return [(n, held(self._filesystem, f, whole=whole, name=n)) for n, f in named]

    def _kind(self, pipe: Stream) -> str:
        return self._format or format_of(pipe)

    def chunks(self, sizes: Iterable[int] | None = None) -> Iterator[Chunk]:
        """The rows, as many at a time as `sizes` says, or fewer where they are long."""
        remaining = iter(sizes or chain(RAMP, repeat(CHUNK_ROWS)))
        if self._once is not None:
            kind, name = self._kind(self._once), self._title
            if self.is_stream:
                yield from self._read(name, self._text(self._once, name, kind, remaining))
                return
            self._spool(self._once, kind)  # these are read from their end
        for file in self.files:
            yield from self._read(self._name(file), self._file(file, remaining))
            self._done, self._here = self._done + file.size_bytes, int

    def _read(self, name: str, rows: Iterator[Chunk]) -> Iterator[Chunk]:
        try:
            yield from rows
        except FAILURES as error:
            raise unreadable(name, error) from None

    def _file(self, file: InputFile, sizes: Iterator[int]) -> Iterator[Chunk]:
        if file.format not in ("parquet", "arrow"):
            stream, raw = open_file(self._filesystem, file)
            with raw:
                self._here = lambda: min(raw.tell(), file.size_bytes)
                yield from self._text(stream, self._name(file), file.format, sizes)
                self._here = int  # before `raw` is closed
            return
        with self._filesystem.open_input_file(file.path) as source:
            if file.format == "parquet":
                batches, total = open_parquet(source)[2], pq.ParquetFile(source).metadata.num_rows
            else:
                batches, total = checked(open_arrow(source)[1]), 0
            rows = (Rows(pa.Table.from_batches([batch]), {}) for batch in batches)
            read = 0
            self._here = lambda: file.size_bytes * read // total if total else 0
            for piece in sliced(rows, sizes):
                read += piece.num_rows
                yield piece

    def _text(self, stream: Stream, name: str, kind: str, sizes: Iterator[int]) -> Iterator[Chunk]:
        if kind == "csv":
            yield from sliced(csv_rows(stream, name), sizes)
        else:
            yield from objects(stream, name, sizes, lines=kind == "jsonl")

    def _name(self, file: InputFile) -> str:
        return file.path if self._spooled is None else self._title

    def _spool(self, pipe: Stream, kind: str) -> None:
        """A pipe as a file, for what must be read twice or from its end."""
        self._spooled = tempfile.NamedTemporaryFile(prefix="polar-ray-stdin-")  # noqa: SIM115
        shutil.copyfileobj(pipe, self._spooled)
        self._spooled.flush()
        self._once, self._filesystem = None, pafs.LocalFileSystem()
        self.files = [InputFile(self._spooled.name, self._spooled.tell(), "", kind)]


def load(source: Source, wanted: Iterable[str]) -> pa.Table:
    """All rows of a source, in columns named by the paths that are `wanted`; in the metadata, what
    the first file says of itself. Raises `RecordError` that names a row that cannot be read."""
    schema = source.schema(whole=True)
    fields = [field_at(schema, name).with_name(name) for name in dict.fromkeys(wanted)]
    found = pa.schema(fields, metadata=schema.metadata)
    parts = [found.empty_table()]
    for chunk in source.chunks(repeat(SAMPLE_ROWS)):
        rows = chunk.fit(schema)
        if rows.errors:
            raise Unreadable(rows.errors[min(rows.errors)])
        parts.append(pa.table([find(rows.table, field.name) for field in found], schema=found))
    return pa.concat_tables(parts)


def in_chunks(table: pa.Table) -> Iterator[Rows]:
    """The rows of a table, as many at a time as a source gives."""
    return sliced([Rows(table, {})], repeat(CHUNK_ROWS))


def sliced(parts: Iterable[Rows], sizes: Iterator[int]) -> Iterator[Rows]:
    """The same rows, as many at a time as `sizes` says, or fewer where they are long."""
    for part in parts:
        at = 0
        while at < part.num_rows:
            piece = part.part(at, min(at + next(sizes), part.num_rows))
            while piece.num_rows > 1 and piece.table.nbytes > CHUNK_BYTES:
                half = piece.part(0, piece.num_rows // 2)
                if half.table.nbytes > 0.9 * piece.table.nbytes:
                    break  # what is large is a dictionary that all rows share
                piece = half
            yield piece
            at += piece.num_rows
