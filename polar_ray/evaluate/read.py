"""Columns of a scored table as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray import records
from polar_ray.data.columns import texts
from polar_ray.errors import ConfigError
from polar_ray.evaluate.estimate import Floats, Labels
from polar_ray.messages import is_text

MADE_BY = ("model", "model_digest", "template_version", "encoding", "engine", "dtype")


def scores(table: pa.Table, name: str) -> Floats:
    """float64 [rows], NaN where there is no score."""
    column = _numbers(table, name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ConfigError(f"column {name!r} holds {column.type}, not scores")
    return _floats(column)


def labels(table: pa.Table, name: str) -> Floats:
    """float64 [rows]: 1 and 0 for true and false, numbers as they are."""
    column = _numbers(table, name)
    if column.null_count or not (
        pa.types.is_boolean(column.type)
        or pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
    ):
        raise ConfigError(f"column {name!r} must hold true, false or numbers in every row")
    return _floats(column.cast(pa.float64()))


def _numbers(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column; where it is text, as all of CSV is, what its text says."""
    column = table[name]
    for kind in (pa.float64(), pa.bool_()) if is_text(column.type) else ():
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue
    return column


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
    """float64 [rows]: characters of a text or of joined messages; 0 for null."""
    found, _ = texts(table, name, name)
    lengths: Floats = pc.fill_null(pc.utf8_length(found), 0).cast(pa.float64()).to_numpy()
    return lengths


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
