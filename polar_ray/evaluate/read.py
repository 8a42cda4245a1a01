"""Columns of a scored file as numpy arrays. Reads parquet, Arrow and jsonl: one file, a glob, or a
folder of parts such as `polar-ray rescore` writes."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from polar_ray import records
from polar_ray.errors import ConfigError, RecordError
from polar_ray.evaluate.estimate import Floats, Labels

FORMATS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}


MADE_BY = ("model", "model_digest", "template_version", "encoding", "engine", "dtype")


def load(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a file, a glob or a folder; `columns` None reads all. Raises `ConfigError` where
    there is nothing to read and `RecordError` where it cannot be read."""
    files = _files(path)
    endings = {FORMATS.get(Path(file).suffix) for file in files}
    if len(endings) != 1 or None in endings:
        raise ConfigError(f"{path!r} must hold files of one kind: {', '.join(FORMATS)}")
    try:
        dataset = pads.dataset(files, format=endings.pop())
        if missing := [name for name in columns or () if name not in dataset.schema.names]:
            raise ConfigError(
                f"{path!r} has no column {', '.join(missing)}; it has "
                f"{', '.join(dataset.schema.names)}"
            )
        return dataset.to_table(columns=None if columns is None else list(dict.fromkeys(columns)))
    except (pa.ArrowException, OSError) as error:
        raise RecordError(f"{path!r} cannot be read: {error}") from None


def _files(path: str) -> list[str]:
    if Path(path).is_dir():
        # Names that begin with _ or . are other people's notes, as everywhere in this field.
        inside = (p for p in sorted(Path(path).iterdir()) if p.suffix in FORMATS)
        files = [str(p) for p in inside if p.is_file() and p.name[0] not in "_."]
    else:
        files = [path] if Path(path).is_file() else sorted(glob(path))
    if not files:
        raise ConfigError(f"no file {path!r}")
    return files


def scores(table: pa.Table, name: str) -> Floats:
    """float64 [rows], NaN where there is no score."""
    column = table[name]
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ConfigError(f"column {name!r} holds {column.type}, not scores")
    return _floats(column)


def labels(table: pa.Table, name: str) -> Floats:
    """float64 [rows]: 1 and 0 for true and false, numbers as they are."""
    column = table[name]
    if column.null_count or not (
        pa.types.is_boolean(column.type)
        or pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
    ):
        raise ConfigError(f"column {name!r} must hold true, false or numbers in every row")
    return _floats(column.cast(pa.float64()))


def names(table: pa.Table, columns: Sequence[str]) -> Labels:
    """int64 [rows]: equal numbers for rows that are equal in all of `columns`."""
    key = np.zeros(table.num_rows, dtype=np.int64)
    for name in columns:
        column = table[name].combine_chunks()
        if pa.types.is_nested(column.type):
            column = pa.array([repr(value) for value in column.to_pylist()], pa.string())
        codes = pc.fill_null(column.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)
        _, key = np.unique(key * (codes.max(initial=0) + 2) + codes + 1, return_inverse=True)
    return key.astype(np.int64)


def text_lengths(table: pa.Table, name: str) -> Floats:
    """float64 [rows]: characters of a text or of a list of messages; 0 for null."""
    column = table[name]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        lengths: Floats = pc.fill_null(pc.utf8_length(column), 0).cast(pa.float64()).to_numpy()
        return lengths
    rows = column.to_pylist()
    return np.array([sum(len(m["content"] or "") for m in row or ()) for row in rows], dtype=float)


def matched(one: pa.Table, other: pa.Table, key: str | None) -> pa.Table:
    """The rows of `other` in the order of `one`: by a column of unique values, or as they are."""
    if one.num_rows != other.num_rows:
        raise ConfigError(f"{one.num_rows} rows on one side, {other.num_rows} on the other")
    if key is None:
        return other
    for table in (one, other):
        if key not in table.column_names:
            raise ConfigError(f"no column {key!r} to match rows by")
    places = pc.index_in(one[key], other[key].combine_chunks())
    if places.null_count or pc.count_distinct(places).as_py() != one.num_rows:
        raise ConfigError(f"the values of {key!r} are not the same, each once, on both sides")
    return other.take(places)


def provenance(table: pa.Table) -> dict[str, str]:
    """What made the scores of a file, where it says so; of a folder, what its first part says."""
    made = records.provenance(table)
    return {name: made[name] for name in MADE_BY if name in made}


def _floats(column: pa.ChunkedArray) -> Floats:
    values: Floats = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()
    return values
