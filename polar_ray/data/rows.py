"""Rows of an input: as Arrow columns, or as JSON held them. Knows no files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa

from polar_ray.errors import RecordError
from polar_ray.messages import in_parts
from polar_ray.records import row_error

BOM = b"\xef\xbb\xbf"
MISFITS = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""What Arrow raises for a value that does not fit its column."""


class Unreadable(RecordError):
    """An input file that is damaged or not what its name says; the message names it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the input, and why some of them could not be read, by their place."""

    table: pa.Table
    errors: dict[int, str]
    left_out: frozenset[str] = frozenset()
    """Fields of JSON rows that the sample did not have, and so the output has not."""

    @property
    def num_rows(self) -> int:
        """The number of rows, those that could not be read included."""
        return int(self.table.num_rows)

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self.table.schema

    def part(self, start: int, stop: int) -> Rows:
        """The rows `start` up to `stop` alone."""
        errors = {i - start: reason for i, reason in self.errors.items() if start <= i < stop}
        return Rows(self.table.slice(start, stop - start), errors, self.left_out)

    def fit(self, schema: pa.Schema) -> Rows:
        """In other columns; those that are not here are null."""
        names = self.table.column_names
        columns = [
            self.table[f.name].cast(f.type) if f.name in names else pa.nulls(self.num_rows, f.type)
            for f in schema
        ]
        return Rows(pa.table(columns, schema=schema), self.errors, self.left_out)

    def to_pylist(self) -> list[dict[str, Any]]:
        """Row by row."""
        found: list[dict[str, Any]] = self.table.to_pylist()
        return found


@dataclass(frozen=True, slots=True)
class Objects:
    """Rows as JSON held them, whatever their kinds. A row that could not be read is empty and has
    its reason."""

    values: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)
    """Where each stands: "line 7 of in.jsonl"."""

    @property
    def num_rows(self) -> int:
        """The number of rows, those that could not be read included."""
        return len(self.values)

    @property
    def schema(self) -> pa.Schema:
        """The columns that would hold most rows."""
        return infer(self.values)

    def add(self, data: bytes | str, where: str) -> None:
        """One more row from its JSON; `where` says which it is."""
        value: Any = None
        try:
            value = orjson.loads(data)
            reason = f"is {type(value).__name__}, not an object"
        except orjson.JSONDecodeError as error:
            if isinstance(data, bytes) and data.startswith(BOM):
                return self.add(data[len(BOM) :], where)
            reason = _why_not_json(data, error)
        if not isinstance(value, dict):
            self.errors[len(self.values)] = row_error("not_an_object", f"{where} {reason}")
            value = {}
        self.values.append(value)
        self.places.append(where)
        return None

    def fit(self, schema: pa.Schema) -> Rows:
        """In columns. A row with a value of another kind is a row of nulls and has its reason."""
        names = set(schema.names)
        left_out = frozenset(name for row in self.values for name in row.keys() - names)
        try:
            return Rows(pa.Table.from_pylist(self.values, schema), dict(self.errors), left_out)
        except MISFITS:
            # Somewhere a value is of another kind than in the sample; find the rows one by one.
            return self._fit_each(schema, left_out)

    def _fit_each(self, schema: pa.Schema, left_out: frozenset[str]) -> Rows:
        errors = dict(self.errors)
        fitting: list[Mapping[str, Any]] = []
        for index, row in enumerate(self.values):
            try:
                fitting.append(_fitting(row, schema))
            except MISFITS as error:
                fitting.append({})
                sentence = f"{self.places[index]} does not fit the columns: {error!s:.120}"
                errors[index] = row_error("not_an_object", sentence)
        return Rows(pa.Table.from_pylist(fitting, schema), errors, left_out)

    def to_pylist(self) -> list[dict[str, Any]]:
        """Row by row, with the fields that each has."""
        return self.values


def _why_not_json(data: bytes | str, error: orjson.JSONDecodeError) -> str:
    constants: list[str] = []
    with suppress(ValueError, RecursionError):
        json.loads(data, parse_constant=constants.append)  # takes what JSON does not have
    if constants:
        return f"holds {constants[0]}, which is no JSON value; write null"
    return f"is not JSON: {error.msg} at its character {error.pos + 1}"


def _fitting(row: Mapping[str, Any], schema: pa.Schema) -> Mapping[str, Any]:
    """The row, or with its messages in parts; raises one of `MISFITS` where neither fits."""
    try:
        pa.Table.from_pylist([row], schema)
    except MISFITS:
        row = {name: in_parts(value) for name, value in row.items()}
        pa.Table.from_pylist([row], schema)
    return row


def infer(rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    """The columns of JSON rows."""
    names = dict.fromkeys(name for row in rows for name in row)
    # from_pylist takes its columns from the first row alone.
    return pa.schema([(name, _kind([row.get(name) for row in rows])) for name in names])


def _kind(values: list[Any]) -> pa.DataType:
    """The type of a column; where values are of several kinds, that of most of them."""
    kinds = Counter(type(v) for v in values if v is not None)
    if kinds.keys() - {int, float} and len(kinds) > 1:
        most = kinds.most_common(1)[0][0]
        values = [v for v in values if type(v) is most]
    for tried in (values, [in_parts(v) for v in values]):
        try:
            kind = pa.infer_type(tried)
        except MISFITS:
            continue
        return pa.string() if pa.types.is_null(kind) else kind
    return pa.string()


def concat(parts: Iterable[Rows], schema: pa.Schema) -> Rows:
    """Rows behind one another, all in the columns of `schema`."""
    tables, at = [schema.empty_table()], 0
    errors: dict[int, str] = {}
    left_out: frozenset[str] = frozenset()
    for part in parts:
        tables.append(part.table)
        errors |= {at + i: reason for i, reason in part.errors.items()}
        left_out |= part.left_out
        at += part.num_rows
    return Rows(pa.concat_tables(tables), errors, left_out)
