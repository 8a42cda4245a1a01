"""What servers answer: scores in exactly the shape that was asked for, or none at all."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from polar_ray.client.servers import (
    ServerType,
    finite_rewards,
    most_bytes,
    reason,
    request,
)
from polar_ray.engine.remote.connection import retry_after_s

LENGTHS = [3, 1]
SGLANG: list[Any] = [
    {"embedding": [0.5], "meta_info": {"prompt_tokens": 3}},
    {"embedding": [-2], "meta_info": {"prompt_tokens": 1}},
]
VLLM: dict[str, Any] = {
    "data": [
        {"index": 0, "object": "pooling", "data": [[9.0], [8.0], [0.5]]},
        {"index": 1, "object": "pooling", "data": [[-2.0]]},
    ]
}
LMDEPLOY: dict[str, Any] = {"data": [{"index": 0, "data": 0.5}, {"index": 1, "data": -2.0}]}
SOUND: dict[ServerType, Any] = {"sglang": SGLANG, "vllm": VLLM, "lmdeploy": LMDEPLOY}


@pytest.mark.parametrize("kind", list(SOUND))
def test_what_is_asked_for_is_read(kind: ServerType) -> None:
    assert np.array_equal(finite_rewards(kind, SOUND[kind], 2, LENGTHS), np.float32([0.5, -2]))


def test_rows_come_by_their_index() -> None:
    turned = {"data": VLLM["data"][::-1]}
    assert finite_rewards("vllm", turned, 2, LENGTHS).tolist() == [0.5, -2]
    turned = {"data": LMDEPLOY["data"][::-1]}
    assert finite_rewards("lmdeploy", turned, 2, LENGTHS).tolist() == [0.5, -2]


def test_vllm_may_give_the_last_value_alone() -> None:
    flat = {"data": [{"index": 0, "data": [0.5]}, {"index": 1, "data": [[-2.0]]}]}
    assert finite_rewards("vllm", flat, 2, LENGTHS).tolist() == [0.5, -2]


def test_the_tokens_that_were_read_must_be_those_that_were_sent() -> None:
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    assert finite_rewards("vllm", {**VLLM, "usage": usage}, 2, LENGTHS).tolist() == [0.5, -2]
    cut = {"prompt_tokens": 3, "total_tokens": 3}
    for kind in ("vllm", "lmdeploy"):
        with pytest.raises(ValueError, match="4 tokens were read as 3"):
            finite_rewards(kind, {**SOUND[kind], "usage": cut}, 2, LENGTHS)


def wrong(kind: ServerType, *path: Any, value: Any) -> tuple[ServerType, Any]:
    answer = copy.deepcopy(SOUND[kind])
    inner = answer
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return kind, answer


WRONG = [
    wrong("sglang", 0, "embedding", value="AAAAPw=="),
    wrong("sglang", 0, "embedding", value=[True]),
    wrong("sglang", 0, "embedding", value=[0.5, 0.25]),
    wrong("sglang", 0, "embedding", value=[]),
    wrong("sglang", 0, "embedding", value=[None]),
    wrong("sglang", 0, "embedding", value=["0.5"]),
    wrong("sglang", 0, "embedding", value=[[0.5]]),
    wrong("sglang", 0, "embedding", value=[1e39]),
    wrong("sglang", 0, "embedding", value=[10**400]),
    wrong("sglang", 0, "embedding", value=[float("nan")]),
    wrong("sglang", 0, value={"score": 0.5}),
    wrong("sglang", 0, "meta_info", "prompt_tokens", value=2),
    ("sglang", SGLANG[::-1]),
    ("sglang", SGLANG[:1]),
    ("sglang", [*SGLANG, SGLANG[0]]),
    ("sglang", {"data": SGLANG}),
    ("sglang", None),
    wrong("vllm", "data", 0, "data", value="AAAAPw=="),
    wrong("vllm", "data", 0, "data", value=[[9.0], [0.5]]),
    wrong("vllm", "data", 0, "data", value=[[9.0], [8.0], [0.5, 0.25]]),
    wrong("vllm", "data", 0, "data", value=[0.1, 0.9, 0.5]),
    wrong("vllm", "data", 0, "data", value=[[9.0], [8.0], [False]]),
    wrong("vllm", "data", 0, "data", value=[]),
    wrong("vllm", "data", 0, "data", value=0.5),
    wrong("vllm", "data", 0, "index", value=1),
    wrong("vllm", "data", 0, "index", value=True),
    wrong("vllm", "data", 0, "index", value=2),
    wrong("vllm", "data", 0, "index", value="0"),
    ("vllm", {"data": VLLM["data"][:1]}),
    ("vllm", VLLM["data"]),
    ("vllm", {"error": "no"}),
    wrong("lmdeploy", "data", 0, "data", value=[0.5]),
    wrong("lmdeploy", "data", 0, "data", value=True),
    wrong("lmdeploy", "data", 0, "data", value="0.5"),
    wrong("lmdeploy", "data", 0, "data", value=float("inf")),
    ("lmdeploy", "text"),
]


@pytest.mark.parametrize(("kind", "answer"), WRONG, ids=lambda value: str(value)[:60])
def test_anything_else_is_no_score(kind: ServerType, answer: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        finite_rewards(kind, answer, 2, LENGTHS)


def test_ids_are_sent_as_each_server_reads_them() -> None:
    ids = [[1, 2], [3]]
    assert request("sglang", ids, None, False) == ("/classify", {"input_ids": ids})
    asked = {"input": ids, "use_activation": False, "model": "polar"}
    assert request("vllm", ids, "polar", False) == ("/pooling", asked)
    assert request("lmdeploy", ids, None, False) == ("/pooling", {"input": ids})


def test_a_value_for_every_token_is_within_bounds() -> None:
    longest = "[-1.2345678901234567e-05],"
    assert most_bytes([16384]) > 16384 * len(longest)
    assert most_bytes([16384]) < 1 << 21


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 1),
        ("3", 3),
        ("0", 0.1),
        ("-7", 0.1),
        ("1e9", 30),
        ("inf", 30),
        ("nan", 1),
        ("nonsense", 1),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 1),
    ],
)
def test_when_to_come_back_is_bounded(header: str | None, seconds: float) -> None:
    assert retry_after_s(header) == seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"error": {"message": "too long"}}', "too long"),
        ('{"error": "busy"}', "busy"),
        ('{"message": "no"}', "no"),
        ("<html>", "<html>"),
        ("[" * 100_000, "[" * 100_000),
        ("[1]", "[1]"),
    ],
    ids=lambda text: text[:10],
)
def test_reasons_are_read_or_shown(text: str, said: str) -> None:
    assert reason(text) == said


def rows(*values: Any) -> dict[str, Any]:
    return {"data": [{"index": at, "data": value} for at, value in enumerate(values)]}


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("sglang", [{"embedding": [-1.5], "meta_info": {}}, {"embedding": [2]}]),
        ("vllm", rows([[0.1], [0.2], [-1.5]], [[2.0]])),
        ("vllm", rows([-1.5], [2.0])),
        ("lmdeploy", rows(-1.5, 2)),
    ],
)
def test_answers_are_read(kind: Any, answer: Any) -> None:
    assert finite_rewards(kind, answer, 2).tolist() == [-1.5, 2.0]


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("sglang", None),
        ("sglang", {"error": {"message": "no"}}),
        ("sglang", [{"embedding": [1.0]}]),
        ("sglang", [{"embedding": [1.0]}] * 3),
        ("sglang", [{"embedding": [1.0, 2.0]}] * 2),
        ("sglang", [{"embedding": []}] * 2),
        ("sglang", [{"embedding": ["AACAPw=="]}] * 2),
        ("sglang", [{"embedding": "1"}] * 2),
        ("sglang", [{"embedding": [True]}] * 2),
        ("sglang", [{"embedding": [float("nan")]}] * 2),
        ("vllm", rows([[1.0, 2.0]], [[1.0]])),
        ("vllm", rows([1.0, 2.0], [1.0])),
        ("vllm", rows("AACAPw==", "AACAPw==")),
        ("vllm", rows([], [])),
        ("lmdeploy", rows([1.0], [2.0])),
        ("lmdeploy", rows(True, False)),
        ("lmdeploy", rows("1", "2")),
        ("lmdeploy", rows(1.0)),
        ("lmdeploy", {"data": {"0": 1, "1": 2}}),
    ],
)
def test_answers_of_another_shape_are_none(kind: Any, answer: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (each says something else)
        finite_rewards(kind, answer, 2)
