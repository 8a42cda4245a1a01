"""Rows: what a trainer has of a rollout, as a record.

Trainers hand over numpy's strings and arrays of objects, tensors' lists, missing references. All
of that becomes plain text or messages here, or stays what it is and is refused in its own row:
nothing is guessed. Reasoning and end tokens of a response are cut off here, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from polar_ray.adapters.settings import PREFIX, AdapterConfig, StripThink
from polar_ray.client.end_tokens import without_end
from polar_ray.errors import ConfigError, RecordError
from polar_ray.messages import NotText, text_of

OPEN, CLOSE = "<think>", "</think>"


def record(
    prompt: Any, reference: Any, output: Any, settings: AdapterConfig, *, ended: bool = False
) -> dict[str, Any]:
    """One rollout as a record. What is no text or messages is left for the client to refuse.
    `ended`: the trainer leaves the tokens that end a response in it."""
    end_tokens = settings.end_tokens if ended else ()
    return {
        "prompt": plain(prompt),
        "reference": _there(plain(reference)),
        "output": _answer(plain(output), settings.strip_think, end_tokens),
    }


def plain(value: Any) -> Any:
    """The same text or messages in Python's own types."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if hasattr(value, "model_dump"):  # messages of pydantic
        return plain(value.model_dump())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def column(columns: Mapping[str, Any], named: str | None, usual: Sequence[str], what: str) -> Any:
    """The column of the settings, else the first of the usual ones that is there.

    `ConfigError` where none is: all rows would have no score, for a reason that none of them has.
    """
    if not isinstance(columns, Mapping):
        raise ConfigError(
            f"the {what} is looked for in a row's columns by their names; the trainer gave "
            f"{columns!r:.80} for a row"
        )
    names = [named] if named is not None else usual
    for name in names:
        if name in columns:
            return columns[name]
    there = ", ".join(map(str, columns)) or "none"
    raise ConfigError(
        f"no column {' or '.join(names)} with the {what}; there are: {there}. "
        f"{PREFIX}{what.upper()}_COLUMN names another"
    )


def aligned(**columns: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of columns that a trainer gave. Raises `RecordError` for what is no column: the
    letters of a text, or the keys of a dict, would make rows, too; and for unequal lengths."""
    for name, values in columns.items():
        if isinstance(values, str | bytes | Mapping | Set) or not hasattr(values, "__len__"):
            raise RecordError(
                f"{name} is {type(values).__name__}, not a list with a value for each row: "
                f"{values!r:.80}"
            )
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise RecordError(f"columns of unequal length: {lengths}")
    return zip(*columns.values(), strict=True)


def visible(text: str, strip: StripThink) -> str:
    """A response without its reasoning. Where none is found the text is left as it is."""
    if strip == "no":
        return text
    opened = text.find(OPEN)
    closed = text.find(CLOSE, opened + len(OPEN)) if opened >= 0 else -1
    if closed < 0 and opened < 0 and strip == "opened":
        closed = text.find(CLOSE)
    return text[closed + len(CLOSE) :].strip() if closed >= 0 else text


def _there(reference: Any) -> Any:
    """A reference, or None: an empty list is what a file's reader has for one that is missing."""
    return None if reference == [] else reference


def _answer(output: Any, strip: StripThink, end_tokens: Sequence[str]) -> Any:
    if isinstance(output, str):
        return visible(without_end(output, end_tokens), strip)
    if isinstance(output, list):
        return [_in_message(message, strip, end_tokens) for message in output]
    return output


def _in_message(message: Any, strip: StripThink, end_tokens: Sequence[str]) -> Any:
    if not isinstance(message, dict):
        return message
    content = message.get("content")
    if isinstance(content, list):  # reasoning may begin in one part and end in another
        content = _joined(message)
    if not isinstance(content, str):
        return message
    return {**message, "content": _answer(content, strip, end_tokens)}


def _joined(message: dict[str, Any]) -> str | None:
    """The text of a message in parts; None where one is no text, which is refused in its row."""
    try:
        return text_of("output", [message])
    except NotText:
        return None
