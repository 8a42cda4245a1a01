"""Other people's columns as prompt, reference and output. Knows Arrow types, not files.

A path names a column or a field within one (`reward_model.ground_truth`). Its values are strings
or lists of messages, whose contents are joined by newlines as everywhere in this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.config import RescoreConfig
from polar_ray.errors import ConfigError
from polar_ray.records import TEXT_COLUMNS, row_error

GUESSES: dict[str, tuple[str, ...]] = {
    # verl's RFT rows keep the bare prompt apart from the one that the policy saw.
    "prompt": ("extra_info.prompt", "prompt"),
    "reference": ("reference", "reward_model.ground_truth"),
    "output": ("output", "response", "completion"),
}
THINKING = r"(?s)<think>.*?</think>"


@dataclass(frozen=True, slots=True)
class Mapped:
    """A request table and the rows that are bad already, as `polar_ray.records.Batch`."""

    table: pa.Table
    errors: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Columns:
    """Paths of the columns of a record within a dataset's rows."""

    prompt: str
    reference: str
    output: str
    wrapper: str | None = None
    strip_think: bool = False
    """Leave `<think>...</think>` out of the output, as POLAR's verl recipe does."""

    def apply(self, rows: pa.Table) -> Mapped:
        """The request table of some rows; a row that is no record is null and has its reason."""
        errors: dict[int, str] = {}
        arrays: dict[str, pa.ChunkedArray | pa.Array] = {}
        for name in TEXT_COLUMNS:
            arrays[name] = _text(name, find(rows, getattr(self, name)), errors)
        if self.strip_think:
            arrays["output"] = pc.replace_substring_regex(arrays["output"], THINKING, "")
        if self.wrapper is not None:
            arrays["wrapper"] = find(rows, self.wrapper).cast(pa.string())
        return Mapped(pa.table(arrays), errors)


def columns_for(config: RescoreConfig, schema: pa.Schema) -> Columns:
    """The columns that a config names or leaves to be found; see `choose`."""
    given = {name: getattr(config, name) for name in (*TEXT_COLUMNS, "wrapper")}
    return choose(schema, given, strip_think=config.strip_think)


def choose(
    schema: pa.Schema, given: Mapping[str, str | None], *, strip_think: bool = False
) -> Columns:
    """The columns that `given` names, and for what it does not name the usual ones.

    Raises `ConfigError` where a path leads nowhere, to no text, or nothing usual is there.
    """
    empty = schema.empty_table()
    rft = _has(empty, "reward_model.ground_truth")
    chosen: dict[str, str] = {}
    for name in TEXT_COLUMNS:
        path = given.get(name)
        if path is None:
            usual = [p for p in GUESSES[name] if _has(empty, p)]
            if name == "prompt" and not rft:
                usual = [p for p in usual if p == "prompt"]
            if not usual or (name == "output" and len(usual) > 1):
                found = f"{' and '.join(usual)} might be it" if usual else "no usual column is it"
                raise ConfigError(
                    f"which column is the {name}? {found}; say {name}=COLUMN. "
                    f"There are {', '.join(paths(schema))}"
                )
            path = usual[0]
        column = find(empty, path)
        if not (is_text(column.type) or is_messages(column.type)):
            raise ConfigError(
                f"{name}={path} is {column.type!s:.80}; it must be text or a list of messages"
            )
        chosen[name] = path
    wrapper = given.get("wrapper")
    if wrapper is None and _has(empty, "wrapper") and is_text(empty["wrapper"].type):
        wrapper = "wrapper"
    if wrapper is not None and not is_text(find(empty, wrapper).type):
        raise ConfigError(f"wrapper={wrapper} must be text")
    return Columns(**chosen, wrapper=wrapper, strip_think=strip_think)


def find(rows: pa.Table, path: str) -> pa.ChunkedArray:
    """The column at a path. A column whose own name has dots comes before a field of another."""
    if path in rows.column_names:
        return rows[path]
    head, *rest = path.split(".")
    if head not in rows.column_names:
        raise ConfigError(f"no column {path!r}; there are {', '.join(paths(rows.schema))}")
    column = rows[head]
    for name in rest:
        if not pa.types.is_struct(column.type) or column.type.get_field_index(name) < 0:
            raise ConfigError(f"no field {path!r}; there are {', '.join(paths(rows.schema))}")
        column = pc.struct_field(column, name)
    return column


def paths(schema: pa.Schema) -> list[str]:
    """Every path of a schema, for messages."""
    found: list[str] = []
    for column in schema:
        found.append(column.name)
        if pa.types.is_struct(column.type):
            inner = pa.schema(list(column.type))
            found += [f"{column.name}.{path}" for path in paths(inner)]
    return found


def is_text(kind: pa.DataType) -> bool:
    """Strings, however Arrow keeps them; so are nulls, of which a small batch may have no other."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def is_messages(kind: pa.DataType) -> bool:
    """Lists of objects with a text `content`."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    item = kind.value_type
    if not pa.types.is_struct(item):
        return False
    at = item.get_field_index("content")
    return at >= 0 and is_text(item.field(at).type)


def _has(rows: pa.Table, path: str) -> bool:
    try:
        find(rows, path)
    except ConfigError:
        return False
    return True


def _text(name: str, column: pa.ChunkedArray, errors: dict[int, str]) -> pa.Array:
    if is_text(column.type):
        return column.cast(pa.string()).combine_chunks()
    if not is_messages(column.type):
        raise ConfigError(f"{name} is {column.type!s:.80}; it must be text or a list of messages")
    texts, bad = joined(column.combine_chunks())
    for index in np.flatnonzero(bad):
        sentence = f'a message of {name} has no content; send {{"role": ..., "content": ...}}'
        errors.setdefault(int(index), row_error("bad_message", sentence))
    return texts


def joined(messages: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Lists of messages as texts, null for null; and where a message without content stands."""
    lengths = pc.fill_null(pc.list_value_length(messages), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    items = messages.flatten()  # without those of null lists
    contents = pc.struct_field(items, "content").cast(pa.string())
    lists = pa.ListArray.from_arrays(pa.array(offsets), contents)
    texts = pc.binary_join(lists, "\n")
    bad = pc.is_null(texts).to_numpy(zero_copy_only=False)
    missing = pc.is_null(messages).to_numpy(zero_copy_only=False)
    return pc.if_else(pa.array(missing), pa.scalar(None, pa.string()), texts), bad & ~missing
