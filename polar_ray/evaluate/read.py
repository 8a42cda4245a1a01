"""Columns of a scored table as numpy arrays. A value that cannot be what its column is for is named
with its row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray import records
from polar_ray.config_base import show
from polar_ray.data.columns import THINKING, texts
from polar_ray.data.json_columns import as_text, from_json, is_json
from polar_ray.errors import ConfigError
from polar_ray.evaluate.estimate import Floats, Labels

MADE_BY = ("model", "model_digest", "template_version", "encoding", "engine", "dtype")

LARGEST = float(np.finfo(np.float32).max)
"""Of a score or label: a score is a float32, and sums of squares of larger numbers overflow."""

NO_CATEGORY = "(none)"


def scores(table: pa.Table, name: str) -> Floats:
    """float64 [rows], NaN where there is no score."""
    found = _numbers(table, name, bools=False)
    _refuse(table, name, ~(np.abs(found) <= LARGEST) & ~np.isnan(found), "a score is a float32")
    return found


def labels(table: pa.Table, name: str) -> Floats:
    """float64 [rows]: 1 and 0 for true and false, numbers as they are."""
    found = _numbers(table, name, bools=True)
    must = "a label is true, false or a number of float32's range, in every row"
    _refuse(table, name, ~(np.abs(found) <= LARGEST), must)
    return found


def categories(table: pa.Table, name: str) -> list[str]:
    """The name of each row's category."""
    field = table.schema.field(name)
    if pa.types.is_nested(field.type) or is_json(field):
        odd = np.array([isinstance(value, list | dict) for value in _values(table, name)])
        _refuse(table, name, odd, "a category is text or a number")
    found: list[str] = pc.fill_null(_as_text(table, name), NO_CATEGORY).to_pylist()
    return found


def names(table: pa.Table, columns: Sequence[str]) -> Labels:
    """int64 [rows]: equal numbers for rows that are equal in all of `columns`."""
    key = np.zeros(table.num_rows, dtype=np.int64)
    for name in columns:
        found = _as_text(table, name).dictionary_encode().indices
        codes = pc.fill_null(found, -1).to_numpy(zero_copy_only=False)
        _, key = np.unique(key * (codes.max(initial=0) + 2) + codes + 1, return_inverse=True)
    return key.astype(np.int64)


def outputs(table: pa.Table, path: str, *, strip_think: bool = False) -> pa.Array:
    """The texts at a path as they are scored, messages joined; null for what is no text."""
    found, _ = texts(table, path, path)
    return pc.replace_substring_regex(found, THINKING, "") if strip_think else found


def lengths(found: pa.Array) -> Floats:
    """float64 [rows]: characters of each text, NaN for null."""
    return _floats(pc.utf8_length(found))


def equal(one: pa.Array, other: pa.Array) -> npt.NDArray[np.bool_]:
    """bool [rows]: where both have the same text."""
    same: npt.NDArray[np.bool_] = pc.fill_null(pc.equal(one, other), False).to_numpy(False)
    return same


def matched(one: pa.Table, other: pa.Table, key: str | None, same: Sequence[str] = ()) -> pa.Table:
    """The rows of `other` in the order of `one`: by a column of unique values, or as they are, if
    columns that must be the `same` are. Values are compared as text, for CSV holds nothing else."""
    if one.num_rows != other.num_rows:
        raise ConfigError(f"{one.num_rows} rows on one side, {other.num_rows} on the other")
    if key is None:
        for name in same:
            fields = [table.schema.field(name) for table in (one, other)]
            if any(pa.types.is_nested(field.type) or is_json(field) for field in fields):
                continue  # as text, the same messages of two formats may differ
            here, there = _as_text(one, name), _as_text(other, name)
            differ = here.is_valid().to_numpy(False) & ~equal(here, there)
            if differ.any():
                raise ConfigError(
                    f"the {name!r} of row {int(np.flatnonzero(differ)[0])} (counted from 0) is not "
                    "the same on both sides, so their rows are not in the same order (rescore may "
                    "group them); name a column of unique values with --key"
                )
        return other
    here, there = (_as_text(table, key) for table in (one, other))
    places = pc.index_in(here, there)
    if places.null_count or len(pc.unique(places)) != one.num_rows:
        values = here.to_pylist()
        mine, others = Counter(values), Counter(there.to_pylist())
        row = next(i for i, v in enumerate(values) if not mine[v] == others[v] == 1)
        raise ConfigError(
            f"the {key!r} of row {row} (counted from 0), {show(values[row])}, is there "
            f"{mine[values[row]]} time(s) on one side and {others[values[row]]} on the other; to "
            "match rows, values must be there each once on both"
        )
    return other.take(places)


def provenance(table: pa.Table) -> dict[str, str]:
    """What made the scores of a file, where it says so; of a folder, what its first part says."""
    made = records.provenance(table)
    return {name: made[name] for name in MADE_BY if name in made}


def _numbers(table: pa.Table, name: str, *, bools: bool) -> Floats:
    """float64 [rows], NaN for null, infinite for what is no number."""
    kind = table.schema.field(name).type
    is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    if is_number or pa.types.is_null(kind):
        return _floats(table[name])
    return np.array([_number(value, bools) for value in _values(table, name)], dtype=np.float64)


def _number(value: Any, bools: bool) -> float:
    if value is None:
        return np.nan
    if isinstance(value, str):  # as all of CSV is
        value = {"true": True, "false": False}.get(value.strip().lower(), value)
    if isinstance(value, bool) and not bools:
        return np.inf
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        return np.inf  # Python takes these for numbers
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.inf


def _values(table: pa.Table, name: str) -> list[Any]:
    found: list[Any] = table[name].to_pylist()
    return from_json(table[name]) if is_json(table.schema.field(name)) else found


def _refuse(table: pa.Table, name: str, odd: npt.NDArray[np.bool_], must: str) -> None:
    """`ConfigError` that names the first odd row, if there is one."""
    if odd.any():
        row = int(np.flatnonzero(odd)[0])
        value = _values(table.slice(row, 1), name)[0]
        raise ConfigError(f"column {name!r}, row {row} (counted from 0): {show(value)}; {must}")


def _as_text(table: pa.Table, name: str) -> pa.Array:
    """Strings by which the values of a column are told apart; null for null."""
    column = as_text(table.select([name])).column(0)
    try:
        return column.cast(pa.large_string()).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # lists, objects, bytes
        found = [None if value is None else repr(value) for value in column.to_pylist()]
        return pa.array(found, pa.large_string())


def _floats(column: pa.Array | pa.ChunkedArray) -> Floats:
    # Not `safe`: integers beyond 53 bits are rounded.
    values = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan)
    found: Floats = values.to_numpy(False) if isinstance(values, pa.Array) else values.to_numpy()
    return found
