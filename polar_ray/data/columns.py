"""Other people's columns as prompt, reference and output. Knows rows, not files.

A path names a column or a field within one (`reward_model.ground_truth`). Its values are strings
or lists of messages (`polar_ray.messages`), whether rows are Arrow's, JSON's, or hold JSON text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.config import ColumnsConfig
from polar_ray.data.json_columns import from_json, is_json, json_field, to_json
from polar_ray.data.rows import Objects, Rows
from polar_ray.errors import ConfigError, bad_wrapper, row_error
from polar_ray.messages import NotText, is_messages, is_text, text_of, texts_of
from polar_ray.records import TEXT_COLUMNS, Batch

GUESSES: dict[str, tuple[str, ...]] = {
    # verl's RFT rows keep the bare prompt apart from the one that the policy saw.
    "prompt": ("extra_info.prompt", "prompt"),
    "reference": ("reference", "reward_model.ground_truth"),
    "output": ("output", "response", "completion", "responses"),
}
TEXT_ONLY = ("responses",)
"""Guesses that are token ids or lists of candidates elsewhere."""

PLAIN = re.compile(r"[\w./:-]{1,80}")
"""Names that need no quotes in a sentence."""

MOST_LISTED = 50
THINKING = r"(?s)<think>.*?</think>"


Table: TypeAlias = "pa.Table | Rows | Objects"
Values: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Columns:
    """Paths of the columns of a record within a dataset's rows."""

    prompt: str
    reference: str
    output: str
    wrapper: str | None = None
    strip_think: bool = False
    """Leave `<think>...</think>` out of the output, as POLAR's verl recipe does."""

    @property
    def paths(self) -> list[str]:
        """All of them."""
        found = (self.prompt, self.reference, self.output, self.wrapper)
        return [path for path in found if path is not None]

    def within(self, schema: pa.Schema) -> pa.Schema:
        """The columns that hold them."""
        held = {path if path in schema.names else path.partition(".")[0] for path in self.paths}
        return pa.schema([field for field in schema if field.name in held])

    def apply(self, rows: Table) -> Batch:
        """The request of some rows; a row that is no record is null and has its reason."""
        errors: dict[int, str] = {}
        arrays: dict[str, pa.ChunkedArray | pa.Array] = {}
        for name in TEXT_COLUMNS:
            arrays[name], bad = texts(rows, name, getattr(self, name))
            errors = {**bad, **errors}
        if self.strip_think:
            arrays["output"] = pc.replace_substring_regex(arrays["output"], THINKING, "")
        if self.wrapper is not None:
            arrays["wrapper"], bad = wrappers(rows, self.wrapper)
            errors = {**bad, **errors}
        unread = {} if isinstance(rows, pa.Table) else rows.errors
        return Batch(pa.table(arrays), {**errors, **unread})


def columns_for(config: ColumnsConfig, schema: pa.Schema) -> Columns:
    """The columns that a config names or leaves to be found; see `choose`."""
    given = {name: getattr(config, name) for name in (*TEXT_COLUMNS, "wrapper")}
    return choose(schema, given, strip_think=config.strip_think)


def choose(
    schema: pa.Schema, given: Mapping[str, str | None], *, strip_think: bool = False
) -> Columns:
    """The columns that `given` names, and for what it does not name the usual ones.

    Raises `ConfigError` where a path leads nowhere, to no text, or nothing usual is there; where
    several are missing, it names them all.
    """
    missing = [said for name in TEXT_COLUMNS if (said := _missing(schema, name, given.get(name)))]
    if missing:
        raise ConfigError(_with_names("; ".join(missing), schema))
    chosen = {name: path_of(schema, name, given.get(name)) for name in TEXT_COLUMNS}
    wrapper = given.get("wrapper")
    if wrapper is None and has(schema, "wrapper") and is_text(schema.field("wrapper").type):
        wrapper = "wrapper"
    if wrapper is not None and not is_text(field_at(schema, wrapper).type):
        raise ConfigError(f"wrapper={wrapper} must be text")
    return Columns(**chosen, wrapper=wrapper, strip_think=strip_think)


def path_of(schema: pa.Schema, name: str, path: str | None) -> str:
    """The column of one field: at the path that was given, or the usual one; see `choose`."""
    if said := _missing(schema, name, path):
        raise ConfigError(_with_names(said, schema))
    path = path or _usual(schema, name)[0]
    kind = field_at(schema, path).type
    if not (is_text(kind) or is_messages(kind)):
        raise ConfigError(f"{name}={path} is {kind!s:.80}; it must be text or a list of messages")
    return path


def _usual(schema: pa.Schema, name: str) -> list[str]:
    """The usual columns of one field that are there and may be it."""
    usual = [
        p
        for p in GUESSES[name]
        if has(schema, p)
        and (p not in TEXT_ONLY or is_text(schema.field(p).type))
        # Only its rows tell what JSON text has within.
        and (p in schema.names or not is_json(field_at(schema, p)))
    ]
    if name == "prompt" and not has(schema, "reward_model.ground_truth"):
        usual = [p for p in usual if p == "prompt"]
    return usual


def _missing(schema: pa.Schema, name: str, path: str | None) -> str | None:
    """What is to be said where the column of one field is not there, or not clear."""
    if path is not None:
        return None if has(schema, path) else _no_such(schema, path)
    usual = _usual(schema, name)
    if usual and (len(usual) == 1 or name != "output" or "output" in usual):
        return None
    alike = _alike(schema, GUESSES[name])
    if usual:
        found = f"{' and '.join(usual)} might be it"
    else:
        found = f"no usual column is it{f', but there is {listed(alike)}' if alike else ''}"
    column = listed(alike) if len(alike) == 1 and not usual else "COLUMN"
    return f"which column is the {name}? {found}; say {name}={column}"


def _no_such(schema: pa.Schema, path: str) -> str:
    kind = "field" if path.partition(".")[0] in schema.names else "column"
    alike = _alike(schema, [path])
    return f"no {kind} {path!r}{f' (there is {listed(alike)})' if alike else ''}"


def _alike(schema: pa.Schema, names: Iterable[str]) -> list[str]:
    """Paths that differ from these names by capitals only."""
    wanted = {name.casefold() for name in names}
    return [p for p in paths(schema) if p.casefold() in wanted and p not in names]


def _with_names(said: str, schema: pa.Schema) -> str:
    """The same, and which columns there are."""
    asks = "which column" in said
    return f"{said}{'. There' if asks else '; there'} are {listed(paths(schema))}"


def find(rows: pa.Table, path: str) -> pa.ChunkedArray:
    """The column at a path, of the type of `field_at`."""
    field_at(rows.schema, path)
    if path in rows.column_names:
        return rows[path]
    head, *rest = path.split(".")
    column = rows[head]
    if is_json(rows.schema.field(head)):
        values = (look_up({head: value}, path) for value in from_json(column))
        return pa.chunked_array([to_json(values)])
    for name in rest:
        column = pc.struct_field(column, name)
    return column


def field_at(schema: pa.Schema, path: str) -> pa.Field:
    """Name and type of the column at a path; what is within JSON text is JSON text. A column whose
    own name has dots comes before a field of another. Raises `ConfigError`."""
    if path in schema.names:
        return schema.field(path)
    head, *rest = path.split(".")
    if head not in schema.names:
        raise ConfigError(_with_names(_no_such(schema, path), schema))
    if is_json(schema.field(head)):
        return json_field(path)
    kind = schema.field(head).type
    for name in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            raise ConfigError(_with_names(_no_such(schema, path), schema))
        kind = kind.field(name).type
    return pa.field(path, kind)


def paths(schema: pa.Schema) -> list[str]:
    """Every path of a schema, for messages."""
    found: list[str] = []
    for column in schema:
        found.append(column.name)
        if pa.types.is_struct(column.type):
            inner = pa.schema(list(column.type))
            found += [f"{column.name}.{path}" for path in paths(inner)]
    return found


def listed(names: Iterable[str]) -> str:
    """Names of columns for a message: in quotes where they would not be seen as one, and not
    more than `MOST_LISTED`."""
    found = [name if PLAIN.fullmatch(name) else repr(name[:80]) for name in names]
    more = f" and {len(found) - MOST_LISTED:,} more" if len(found) > MOST_LISTED else ""
    return ", ".join(found[:MOST_LISTED]) + more


def has(schema: pa.Schema, path: str) -> bool:
    """Whether a path leads to a column."""
    try:
        field_at(schema, path)
    except ConfigError:
        return False
    return True


def texts(rows: Table, name: str, path: str) -> tuple[pa.Array, dict[int, str]]:
    """The field `name` of records, from the column at a path: strings, or messages joined. Null
    for null; a row that is no text is null, too, and has its reason."""
    if (objects := _objects(rows, path)) is not None:
        return _texts_of_objects(objects, name, path)
    column = find(_table(rows), path)
    if is_text(column.type):
        return column.cast(pa.string()).combine_chunks(), {}
    if not is_messages(column.type):
        raise ConfigError(f"{name} is {column.type!s:.80}; it must be text or a list of messages")
    found, bad = texts_of(name, column.combine_chunks())
    return found, {row: row_error("bad_message", reason) for row, reason in bad.items()}


def _texts_of_objects(rows: Values, name: str, path: str) -> tuple[pa.Array, dict[int, str]]:
    found: list[str | None] = []
    errors: dict[int, str] = {}
    for index, row in enumerate(rows):
        text = None
        try:
            value = look_up(row, path)
            text = None if value is None else text_of(name, value)
        except NotText as error:
            errors[index] = row_error("bad_message", str(error))
        found.append(text)
    return pa.array(found, pa.string()), errors


def _table(rows: pa.Table | Rows) -> pa.Table:
    return rows if isinstance(rows, pa.Table) else rows.table


def _objects(rows: Table, path: str) -> Values | None:
    """Rows whose values at a path are JSON's, with so much of each as `look_up` asks for; None
    where they are Arrow's."""
    if isinstance(rows, Objects):
        return rows.values
    table = _table(rows)
    name = path if path in table.column_names else path.partition(".")[0]
    if name not in table.column_names or not is_json(table.schema.field(name)):
        return None
    return [{name: value} for value in from_json(table[name])]


def look_up(row: Mapping[str, Any], path: str, absent: Any = None) -> Any:
    """`find` for a JSON row; `absent` for what it does not have. A field of a null is null, as in a
    column."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None if value is None else absent
        value = value[name]
    return value


def wrappers(rows: Table, path: str) -> tuple[pa.Array | pa.ChunkedArray, dict[int, str]]:
    """The templates of records, null where there is no such column; and why some are none."""
    if (objects := _objects(rows, path)) is None:
        table = _table(rows)
        if not has(table.schema, path):
            return pa.nulls(table.num_rows, pa.string()), {}
        return find(table, path).cast(pa.string()), {}
    values = [look_up(row, path) for row in objects]
    odd = {i: bad_wrapper(v) for i, v in enumerate(values) if not isinstance(v, str | None)}
    kept = [None if i in odd else value for i, value in enumerate(values)]
    return pa.array(kept, pa.string()), odd
