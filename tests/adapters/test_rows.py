"""Rows of trainers as records: plain types, reasoning and end tokens cut off, nothing guessed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.adapters.rows import aligned, column, plain, record, visible
from polar_ray.adapters.settings import AdapterConfig
from polar_ray.errors import ConfigError, RecordError
from polar_ray.records import to_batch

SETTINGS = AdapterConfig(address="http://pool")


def objects(*values: Any) -> Any:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


class Said:
    """A message as pydantic's models are."""

    def model_dump(self) -> dict[str, Any]:
        return {"role": "user", "content": np.str_("2+2=")}


MESSAGES = [{"role": "user", "content": "2+2="}]


@pytest.mark.parametrize(
    "prompt",
    [
        MESSAGES,
        tuple(MESSAGES),
        objects(*MESSAGES),
        objects({"role": np.str_("user"), "content": np.str_("2+2=")}),
        [Said()],
        objects(Said()),
    ],
    ids=["list", "tuple", "array", "numpy's strings", "models", "array of models"],
)
def test_messages_arrive_as_messages(prompt: Any) -> None:
    assert plain(prompt) == MESSAGES
    batch = to_batch([record(prompt, np.str_("4"), "four", SETTINGS)])
    assert batch.errors == {}
    assert batch.table.to_pylist() == [{"prompt": "2+2=", "reference": "4", "output": "four"}]


@pytest.mark.parametrize("value", [None, 4.5, float("nan"), np.float32("nan"), np.int64(4), b"4"])
def test_what_is_no_text_is_refused_in_its_row(value: Any) -> None:
    batch = to_batch([record("p", value, "o", SETTINGS), record("p", "r", "o", SETTINGS)])
    assert list(batch.errors) == [0]
    assert "reference is" in batch.errors[0]


POLARS = re.compile(r"<think>(.*?)</think>(.*)", re.DOTALL)
"""The pattern of POLAR's reward function, whose second group it scores, stripped."""


@given(st.lists(st.sampled_from(["<think>", "</think>", " ", "\n", "a", "b"]), max_size=9))
def test_reasoning_is_stripped_as_polar_does(parts: list[str]) -> None:
    text = "".join(parts)
    match = POLARS.search(text)
    assert visible(text, "polar") == (match.group(2).strip() if match else text)
    assert visible(text, "no") == text


def test_reasoning_that_the_prompt_opened() -> None:
    text = "so it is 4.\n</think>\n\nfour"
    assert visible(text, "opened") == "four"
    assert visible(text, "polar") == text
    assert visible("<think>so", "opened") == "<think>so", "cut short: there is no answer to find"


def test_the_tokens_that_end_an_output_are_cut_off_messages_too() -> None:
    wanted = record("p", "r", [{"role": "assistant", "content": "four"}], SETTINGS)
    messages = [{"role": "assistant", "content": "four<|im_end|>"}]
    assert record("p", "r", messages, SETTINGS, ended=True) == wanted


def test_an_end_token_stays_where_a_trainer_leaves_none() -> None:
    assert record("p", "r", "<s>x</s>", SETTINGS)["output"] == "<s>x</s>"


def test_reasoning_is_stripped_in_messages_too() -> None:
    said = [{"role": "assistant", "content": "<think>hm</think> four"}]
    output = record("p", "r", said, SETTINGS)["output"]
    assert output == [{"role": "assistant", "content": "four"}]
    parts = [{"type": "text", "text": "<think>hm"}, {"type": "text", "text": "</think> four"}]
    said = [{"role": "assistant", "content": parts}]
    assert record("p", "r", said, SETTINGS)["output"] == output
    picture = [{"role": "assistant", "content": [*parts, {"type": "image_url"}]}]
    assert record("p", "r", picture, SETTINGS)["output"] == picture, "which its row refuses"
    odd = [{"role": "assistant", "content": None}, 7]
    assert record("p", "r", odd, SETTINGS)["output"] == odd


def test_a_column_that_is_missing_is_a_mistake_of_the_settings() -> None:
    assert column({"answer": [1], "b": [2]}, None, ("reference", "answer"), "reference") == [1]
    assert column({"answer": [1], "b": [2]}, "b", ("answer",), "reference") == [2]
    assert column({"reference": None, "answer": "4"}, None, ("reference", "answer"), "r") is None
    with pytest.raises(ConfigError, match=r"no column gold .* there are: answer\. POLAR_RAY_REF"):
        column({"answer": [1]}, "gold", ("answer",), "reference")
    with pytest.raises(ConfigError, match=r"prompt is looked for .* the trainer gave None"):
        column(None, None, ("prompt",), "prompt")  # type: ignore[arg-type]


def test_an_empty_list_is_no_reference() -> None:
    for missing in ([], np.array([], dtype=object)):
        assert record("p", missing, "o", SETTINGS)["reference"] is None


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompts": ["a", "b"], "reference": "xy"}, "reference is str, not a list"),
        ({"prompts": ["a", "b"], "reference": {"k": 1, "l": 2}}, "reference is dict, not a list"),
        ({"prompts": ["a", "b"], "reference": {"k", "l"}}, "reference is set, not a list"),
        ({"prompts": ["a", "b"], "reference": b"xy"}, "reference is bytes, not a list"),
        ({"prompts": ["a", "b"], "reference": None}, "reference is NoneType, not a list"),
        ({"prompts": ["a", "b"], "reference": ["x"]}, "unequal length: prompts 2, reference 1"),
    ],
)
def test_what_is_no_column_makes_no_rows(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        aligned(**columns)


def test_columns_are_whatever_trainers_have() -> None:
    rows = aligned(a=np.array(["x", "y"], object), b=("1", "2"), c=[None, []])
    assert list(rows) == [("x", "1", None), ("y", "2", [])]
