"""What sglang, vllm and lmdeploy servers are asked, and the scores in their answers.

Pure. An answer is an exact statement about each sequence that was asked for, or it is none: what a
server says in another shape must never become a score.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]

ServerType = Literal["sglang", "vllm", "lmdeploy"]

ROUTES: dict[ServerType, str] = {
    "sglang": "/classify",
    "vllm": "/pooling",
    "lmdeploy": "/pooling",
}

ROW_BYTES = 4096
"""Of an answer for each sequence, beside its values."""

VALUE_BYTES = 64
"""Of an answer for each token: vllm gives a value for every one."""


def request(
    kind: ServerType, inputs: Sequence[Any], model: str | None, activation: bool | None
) -> tuple[str, dict[str, Any]]:
    """Route and body for a list of texts or of lists of ids. `activation` False asks vllm for raw
    scores; None leaves it to what the server does with those who do not say."""
    named = {} if model is None else {"model": model}
    if kind == "sglang":
        field = "text" if inputs and isinstance(inputs[0], str) else "input_ids"
        return ROUTES[kind], {**named, field: inputs}
    extra = {} if activation is None or kind != "vllm" else {"use_activation": activation}
    return ROUTES[kind], {**named, "input": inputs, **extra}


def most_bytes(lengths: Sequence[int]) -> int:
    """The longest answer that is read, for sequences of so many tokens."""
    return (1 << 16) + ROW_BYTES * len(lengths) + VALUE_BYTES * sum(lengths)


def rewards(
    kind: ServerType, answer: Any, count: int, lengths: Sequence[int] | None = None
) -> Scores:
    """The numbers in a server's answer to `count` sequences, in the order of the request; raises
    `ValueError` for anything else. `lengths` are their tokens, where they are known."""
    rows = answer if kind == "sglang" else _field(answer, "data")
    if not isinstance(rows, list) or len(rows) != count:
        found = f"{len(rows)} rows" if isinstance(rows, list) else "no list"
        raise ValueError(f"{found} for {count} sequences")
    _check_usage(answer, lengths)
    values: dict[int, float] = {}
    for at, row in enumerate(rows):
        place = _place(row, at, count)
        if place in values:
            raise ValueError(f"two rows have index {place}")
        values[place] = _reward(kind, row, None if lengths is None else lengths[place])
    with np.errstate(over="ignore"):
        scores: Scores = np.array([values[at] for at in range(count)]).astype(np.float32)
    return scores


def finite_rewards(
    kind: ServerType, answer: Any, count: int, lengths: Sequence[int] | None = None
) -> Scores:
    """`rewards`; also raises where one is not finite."""
    scores = rewards(kind, answer, count, lengths)
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    return scores


def reason(text: str) -> str:
    """What a refusal says, out of the JSON of these servers or as it is."""
    try:
        body = json.loads(text)
        inner = body.get("error", body)
        return str(inner["message"] if isinstance(inner, dict) else inner)
    except (ValueError, AttributeError, KeyError, RecursionError):
        return text


def _check_usage(answer: Any, lengths: Sequence[int] | None) -> None:
    """vllm and lmdeploy say how many tokens they have read: fewer are sequences cut in silence."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if lengths is not None and read is not None and read != sum(lengths):
        raise ValueError(f"{sum(lengths)} tokens were read as {read!r:.40}")


def _field(of: Any, name: str) -> Any:
    if not isinstance(of, dict) or name not in of:
        raise ValueError(f"no {name!r}")
    return of[name]


def _place(row: Any, at: int, count: int) -> int:
    """Which sequence a row is for; by its index where it has one."""
    index = row.get("index", at) if isinstance(row, dict) else at
    if type(index) is not int or not 0 <= index < count:
        raise ValueError(f"index {index!r:.40} of {count} rows")
    return index


def _reward(kind: ServerType, row: Any, length: int | None) -> float:
    if kind == "sglang":
        _check_tokens(row, length)
        return _single(_field(row, "embedding"))
    data = _field(row, "data")
    return _number(data) if kind == "lmdeploy" else _last(data, length)


def _check_tokens(row: Any, length: int | None) -> None:
    """sglang says how many tokens it has read: another number is another sequence's row."""
    meta = row.get("meta_info") if isinstance(row, dict) else None
    read = meta.get("prompt_tokens") if isinstance(meta, dict) else None
    if length is not None and read is not None and read != length:
        raise ValueError(f"a sequence of {length} tokens was read as {read!r:.40}")


def _last(data: Any, length: int | None) -> float:
    """vllm answers with one value for every token, of which the last counts, or with that alone."""
    if isinstance(data, list) and data and all(isinstance(value, list) for value in data):
        if length is not None and len(data) not in (1, length):
            raise ValueError(f"{len(data)} values for {length} tokens")
        return _single(data[-1])
    return _single(data)


def _single(values: Any) -> float:
    if not isinstance(values, list) or len(values) != 1:
        shown = f"{len(values)} values" if isinstance(values, list) else f"{values!r:.40}"
        raise ValueError(f"{shown} where one is meant")
    return _number(values[0])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r:.40} is no number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a score is not finite") from None
