"""Rows of an input: as Arrow columns, or as JSON held them. Knows no files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from polar_ray.data.json_columns import from_json, is_json, json_values, to_json
from polar_ray.data.json_values import loads
from polar_ray.data.kinds import Kinds
from polar_ray.errors import RecordError
from polar_ray.records import row_error

BATCH_ROWS = 1024
"""That are read at a time where nobody asks for another number."""

BOM = b"\xef\xbb\xbf"


class Unreadable(RecordError):
    """An input file that is damaged or not what its name says; the message names it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the input, and why some of them could not be read, by their place."""

    table: pa.Table
    errors: dict[int, str]

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
        return Rows(self.table.slice(start, stop - start), errors)

    def fit(self, schema: pa.Schema) -> Rows:
        """In other columns; those that are not here are null."""
        columns = [self._column(column) for column in schema]
        return Rows(pa.table(columns, schema=schema), self.errors)

    def _column(self, wanted: pa.Field) -> pa.Array | pa.ChunkedArray:
        if wanted.name not in self.table.column_names:
            return pa.nulls(self.num_rows, wanted.type)
        column = self.table[wanted.name]
        if is_json(wanted) and not is_json(self.schema.field(wanted.name)):
            return to_json(json_values(column))
        return column if column.type == wanted.type else column.cast(wanted.type)

    def to_pylist(self) -> list[dict[str, Any]]:
        """Row by row, as values of JSON, which all columns must have (`why_not_json`); what is
        JSON text as the values that it says."""
        columns = [
            from_json(column) if is_json(field) else json_values(column)
            for field, column in zip(self.schema, self.table.columns, strict=True)
        ]
        names = self.schema.names
        rows = zip(*columns, strict=True) if columns else ((),) * self.num_rows
        return [dict(zip(names, row, strict=True)) for row in rows]


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
        """The columns as they are most likely meant."""
        return Kinds(self.values).likely()

    def add(self, data: bytes | str, where: str) -> None:
        """One more row from its JSON; `where` says which it is."""
        value: Any = None
        try:
            value = loads(data)
            reason = f"is {type(value).__name__}, not an object"
        except ValueError as error:
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
        """In columns that were made for all rows of the file. Raises `Unreadable` that names the
        row and the column where a value does not fit: the file has changed since."""
        self._check(schema)
        columns = []
        for column in schema:
            values = [row.get(column.name) for row in self.values]
            columns.append(to_json(values) if is_json(column) else pa.array(values, column.type))
        return Rows(pa.table(columns, schema=schema), dict(self.errors))

    def _check(self, schema: pa.Schema) -> None:
        own = {column.name: column for column in schema}

        def odd(kinds: Kinds) -> list[str]:
            return [
                name
                for name, kind in kinds.columns.items()
                if name not in own or not (is_json(own[name]) or kind.fits(own[name].type))
            ]

        if odd(Kinds(self.values)):
            for row, where in zip(self.values, self.places, strict=True):
                if names := odd(Kinds([row])):
                    raise Unreadable(
                        f"{where}: column {names[0]!r} holds what the file did not hold there when "
                        "it was first read; it must not change meanwhile"
                    )

    def to_pylist(self) -> list[dict[str, Any]]:
        """Row by row, with the fields that each has."""
        return self.values


def _why_not_json(data: bytes | str, error: ValueError) -> str:
    try:
        _ = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError as odd:
        return f"is not JSON: its byte {odd.start + 1} is no UTF-8; save the file as UTF-8"
    if not isinstance(error, json.JSONDecodeError):
        return f"cannot be read: {error}"
    return f"is not JSON: {error.msg} at its character {error.pos + 1}"


def concat(parts: Iterable[Rows], schema: pa.Schema) -> Rows:
    """Rows behind one another, all in the columns of `schema`."""
    tables, at = [pa.Table.from_batches([], schema)], 0
    errors: dict[int, str] = {}
    for part in parts:
        tables.append(part.table)
        errors |= {at + i: reason for i, reason in part.errors.items()}
        at += part.num_rows
    return Rows(pa.concat_tables(tables), errors)
