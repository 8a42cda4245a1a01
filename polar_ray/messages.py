"""Chat messages as text: the only place that joins them, for one value or for a column.

A text is a string or a list of messages. A message's content is a string or, as OpenAI's clients
send it, a list of parts, of which only text can be scored. Contents are joined by newlines, and so
are the parts of one; roles are dropped, as POLAR's own client does. No messages at all are no text:
readers of files have an empty list for one that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TEXT_PARTS = (None, "text", "input_text", "output_text")
"""Types of parts that are text. A column of parts has None where a row's JSON said no type."""


class NotText(Exception):
    """A value that is neither a string nor messages of text; says why."""


def text_of(name: str, value: Any) -> str:
    """The field `name` as one string. Raises `NotText`."""
    if isinstance(value, str):
        return value
    if not _is_list(value):
        raise NotText(f"{name} is {type(value).__name__}; send a string or a list of messages")
    if not value:
        raise NotText(f"{name} is an empty list of messages; send '' for an empty text")
    return "\n".join(
        _content(message, f"message {at} of {name}") for at, message in enumerate(value)
    )


def texts_of(name: str, column: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """`text_of` for a column of lists of messages, null for null; and why some rows are no text,
    by their place."""
    texts = _joined_strings(column)
    unsure = np.flatnonzero(pc.and_(pc.is_null(texts), pc.is_valid(column)).to_numpy(False))
    errors: dict[int, str] = {}
    found: list[str | None] = []
    for row in unsure.tolist():
        try:
            found.append(text_of(name, column[row].as_py()))
        except NotText as error:
            found.append(None)
            errors[row] = str(error)
    if found:
        mask = np.zeros(len(column), np.bool_)
        mask[unsure] = True
        texts = pc.replace_with_mask(texts, mask, pa.array(found, pa.string()))
    return texts, errors


def is_text(kind: pa.DataType) -> bool:
    """Strings, however Arrow keeps them; so are nulls, of which a small batch may have no other."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def is_messages(kind: pa.DataType) -> bool:
    """Lists of objects whose `content` is text or a list of parts."""
    content = _field(kind, "content")
    return content is not None and (is_text(content) or _field(content, "text") is not None)


def _joined_strings(column: pa.Array) -> pa.Array:
    """Where every content of a row is a string, and there is one: joined. Null for all other
    rows."""
    content = _field(column.type, "content")
    if content is None or not is_text(content):
        return pa.nulls(len(column), pa.string())
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    items = column.flatten()  # without those of null lists
    contents = pc.struct_field(items, "content").cast(pa.string())
    texts = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), contents), "\n")
    return pc.if_else(pa.array(lengths > 0), texts, pa.scalar(None, pa.string()))


def _field(kind: pa.DataType, name: str) -> pa.DataType | None:
    """The type of a field of a list's objects."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return None
    item = kind.value_type
    at = item.get_field_index(name) if pa.types.is_struct(item) else -1
    return item.field(at).type if at >= 0 else None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _content(message: Any, where: str) -> str:
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return content
    if content is None or not _is_list(content):
        raise NotText(f'{where} has no text content; send {{"role": ..., "content": ...}}')
    return "\n".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind in TEXT_PARTS and isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise NotText(f"{where} has a part of type {kind!r:.40}; only parts of text can be scored")
