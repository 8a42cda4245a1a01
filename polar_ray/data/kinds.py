"""The Arrow types in which columns of JSON leave as they came. Knows no rows of files.

A column has a type of its own where every value of it equals what Arrow gives back: texts; integers
of 64 bits; numbers that are all exact as float64; lists of one such kind; objects that all have the
same keys. Any other column holds each value's JSON text, and its field says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from polar_ray.data.json_columns import json_field

STR, BOOL, INT, INEXACT, FLOAT, LIST, DICT, DEEP, TOO_DEEP = (1 << bit for bit in range(9))
"""What values were seen. INEXACT: integers so large that there may be no float64 for them."""

NUMBERS = INT | FLOAT
MOST_DEPTH = 16
"""Of nested types. Those of some 40 levels make parquet files that nobody can read."""

MOST_TEXT_DEPTH = 250
"""Within JSON text. Deeper values are refused: not everybody can read or write them."""

MOST_KEYS = 256
"""Of objects with differing keys that are looked into."""

MOST_COLUMNS = 10_000


class Kind:
    """What is known of the values of one column, or of what is within them."""

    __slots__ = ("alike", "fields", "high", "items", "low", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.low = self.high = 0
        self.items: Kind | None = None
        self.fields: dict[str, Kind] = {}
        self.alike = True
        """All objects have the same keys."""

    def add(self, value: Any, depth: int = 1) -> None:
        """One more value."""
        kind = type(value)
        if kind is str:
            self.seen |= STR
        elif kind is dict:
            self._add_object(value, depth)
        elif kind is list:
            self.seen |= LIST
            if depth > MOST_DEPTH:
                self._add_deep(value)
                return
            self.items = self.items or Kind()
            for item in value:
                self.items.add(item, depth + 1)
        elif kind is bool:
            self.seen |= BOOL
        elif kind is int:
            self.seen |= INT if -(1 << 53) <= value <= 1 << 53 else INT | INEXACT
            self.low, self.high = min(self.low, value), max(self.high, value)
        elif kind is float:
            self.seen |= FLOAT

    def _add_object(self, value: Mapping[str, Any], depth: int) -> None:
        first = not self.seen & DICT
        self.seen |= DICT
        if depth > MOST_DEPTH:
            self._add_deep(value)
            return
        if first:
            self.fields = {name: Kind() for name in value}
        elif self.fields.keys() != value.keys():
            self._differ(value)
        for name, inner in value.items():
            if (field := self.fields.get(name)) is not None:
                field.add(inner, depth + 1)

    def _add_deep(self, value: Any) -> None:
        self.seen |= DEEP
        depth, inner = MOST_DEPTH, [value]
        while depth <= MOST_TEXT_DEPTH and (inner := [v for one in inner for v in _inner(one)]):
            depth += 1
        self.seen |= TOO_DEEP if depth > MOST_TEXT_DEPTH else 0

    def _differ(self, names: Iterable[str]) -> None:
        self.alike = False
        for name in names:
            if len(self.fields) < MOST_KEYS:
                self.fields.setdefault(name, Kind())

    def merge(self, other: Kind) -> None:
        """All values of another."""
        if self.seen & other.seen & DICT:
            if self.fields.keys() != other.fields.keys():
                self._differ(other.fields)
        elif other.seen & DICT:
            self.fields = {name: Kind() for name in other.fields}
        for name, field in other.fields.items():
            if name in self.fields:
                self.fields[name].merge(field)
        if other.items is not None:
            self.items = self.items or Kind()
            self.items.merge(other.items)
        self.seen |= other.seen
        self.alike &= other.alike
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @property
    def type(self) -> pa.DataType | None:
        """The type that holds every value as it is; None where there is none."""
        seen = self.seen
        if seen in (0, STR):
            return pa.string()
        if seen == BOOL:
            return pa.bool_()
        if seen & FLOAT and not seen & ~NUMBERS:
            return pa.float64()
        if seen & INT and not seen & ~(INT | INEXACT):
            return self._integer()
        if seen == LIST:
            inner = (self.items or Kind()).type
            return None if inner is None else pa.list_(inner)
        if seen == DICT and self.alike and self.fields:
            kinds = {name: field.type for name, field in self.fields.items()}
            return None if None in kinds.values() else pa.struct(list(kinds.items()))
        return None

    def _integer(self) -> pa.DataType | None:
        if self.low >= -(1 << 63) and self.high < 1 << 63:
            return pa.int64()
        return pa.uint64() if self.low >= 0 and self.high < 1 << 64 else None

    @property
    def likely(self) -> pa.DataType:
        """The same, or what most likely is meant: where texts are to be found."""
        if (kind := self.type) is not None:
            return kind
        if self.seen & STR:
            return pa.string()
        if self.seen & LIST:
            return pa.list_((self.items or Kind()).likely)
        if self.fields:
            return pa.struct([(name, field.likely) for name, field in self.fields.items()])
        return pa.float64() if self.seen & NUMBERS else pa.string()

    @property
    def is_too_deep(self) -> bool:
        """Whether some value is too deep for JSON text."""
        inner = [*self.fields.values(), *([] if self.items is None else [self.items])]
        return bool(self.seen & TOO_DEEP) or any(one.is_too_deep for one in inner)

    def fits(self, kind: pa.DataType) -> bool:
        """Whether a column of this type holds every value as it is."""
        if not self.seen or self.type == kind:
            return True
        if kind == pa.float64():
            return not self.seen & ~NUMBERS
        if kind == pa.uint64():
            return self.type == pa.int64() and self.low >= 0
        if kind == pa.large_string():
            return self.seen == STR
        if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and self.seen == LIST:
            return self.items is None or self.items.fits(kind.value_type)
        if pa.types.is_struct(kind) and self.seen == DICT and self.alike:
            names = {field.name for field in kind}
            return self.fields.keys() == names and all(
                self.fields[field.name].fits(field.type) for field in kind
            )
        return False


class Kinds:
    """What is known of the columns of JSON rows."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.columns: dict[str, Kind] = {}
        self.add(rows)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """More rows. Raises `ValueError` where they have too many columns."""
        columns = self.columns
        for row in rows:
            for name, value in row.items():
                if (kind := columns.get(name)) is None:
                    kind = self._column(name)
                kind.add(value)

    def merge(self, other: Kinds) -> None:
        """The rows of another file."""
        for name, kind in other.columns.items():
            (self.columns.get(name) or self._column(name)).merge(kind)

    def schema(self) -> pa.Schema:
        """Columns in which every value leaves as it came; those without values are of type null."""
        fields = []
        for name, kind in self.columns.items():
            own = kind.type if kind.seen else pa.null()
            fields.append(json_field(name) if own is None else pa.field(name, own))
        return pa.schema(fields)

    @property
    def too_deep(self) -> str | None:
        """A column of which no text can be written; None where there is none."""
        return next((name for name, kind in self.columns.items() if kind.is_too_deep), None)

    def likely(self) -> pa.Schema:
        """The columns as they are most likely meant, to find those of a record."""
        return pa.schema([(name, kind.likely) for name, kind in self.columns.items()])

    def _column(self, name: str) -> Kind:
        if len(self.columns) >= MOST_COLUMNS:
            raise ValueError(
                f"its rows have more than {MOST_COLUMNS:,} columns, such as {name[:40]!r}; put "
                "what differs by row into one column that holds an object"
            )
        self.columns[name] = Kind()
        return self.columns[name]


def _inner(value: Any) -> Iterable[Any]:
    """The lists and objects that stand in a value."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (v for v in values if isinstance(v, dict | list))
