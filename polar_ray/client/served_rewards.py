"""What sglang, vllm and lmdeploy are asked, and what counts as their answer.

Pure, and strict: an answer of another shape is none, however much like a reward it looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

ServerType = Literal["sglang", "vllm", "lmdeploy"]


class NotRewards(ValueError):
    """An answer that does not hold one reward for each text."""


class _Server(NamedTuple):
    route: str
    body: Callable[[Sequence[str], str], dict[str, Any]]
    rows: Callable[[Any], Any]
    reward: Callable[[Any], Any]


def _sglang_reward(row: Any) -> Any:
    [reward] = row["embedding"]
    return reward


def _vllm_reward(row: Any) -> Any:
    *_, last = row["data"]
    if isinstance(last, list):  # a list for every token of the text
        [last] = last
    elif len(row["data"]) != 1:
        raise NotRewards(f"{len(row['data'])} values for one text")
    return last


SERVERS: Mapping[ServerType, _Server] = {
    "sglang": _Server(
        "/classify",
        lambda texts, model: {"model": model, "text": list(texts)},
        lambda answer: answer,
        _sglang_reward,
    ),
    # Without `use_activation` it answers with a sigmoid of the reward.
    "vllm": _Server(
        "/pooling",
        lambda texts, model: {"input": list(texts), "use_activation": False},
        lambda answer: _in_order(answer["data"]),
        _vllm_reward,
    ),
    "lmdeploy": _Server(
        "/pooling",
        lambda texts, model: {"input": list(texts)},
        lambda answer: _in_order(answer["data"]),
        lambda row: row["data"],
    ),
}


def request(kind: ServerType, texts: Sequence[str], model: str) -> tuple[str, dict[str, Any]]:
    """Route and body."""
    server = SERVERS[kind]
    return server.route, server.body(texts, model)


def rewards(kind: ServerType, answer: Any, count: int) -> list[float]:
    """The rewards of an answer, in order; raises `NotRewards` for anything else."""
    server = SERVERS[kind]
    try:
        rows = server.rows(answer)
        if not isinstance(rows, list) or len(rows) != count:
            raise NotRewards(f"not {count} rewards")
        return [_number(server.reward(row)) for row in rows]
    except NotRewards:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NotRewards(f"{type(error).__name__}: {error!s:.80}") from None


def _in_order(rows: Any) -> Any:
    for at, row in enumerate(rows):
        if row["index"] != at or isinstance(row["index"], bool):
            raise NotRewards(f"row {at} has index {row['index']!r:.20}")
    return rows


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NotRewards(f"a reward is {value!r:.40}")
    return float(value)
