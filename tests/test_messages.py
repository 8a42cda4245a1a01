"""Chat messages become one text, whoever sent them and however."""

from __future__ import annotations

import pyarrow as pa
import pytest

from polar_ray.messages import NotText, text_of, texts_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], "a\nb"),
        ([{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "a\nb"),
        ([{"content": [{"type": "output_text", "text": "a"}]}, {"content": "b"}], "a\nb"),
        (({"content": []},), ""),
    ],
)
def test_contents_and_parts_are_joined_by_newlines(value: object, text: str) -> None:
    assert text_of("prompt", value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (5, "output is int; send a string or a list of messages"),
        (b"x", "output is bytes"),
        ({"content": "a"}, "output is dict"),
        ([], "output is an empty list of messages"),
        ((), "output is an empty list of messages"),
        (["a"], "message 0 of output has no text content"),
        ([{"content": "a"}, {"content": None}], "message 1 of output has no text content"),
        ([{"content": {"text": "a"}}], "message 0 of output has no text content"),
        (
            [{"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
            "message 0 of output has a part of type 'image_url'; only parts of text can be scored",
        ),
        ([{"content": [{"type": "text"}]}], "has a part of type 'text'"),
        ([{"content": ["a"]}], "has a part of type 'str'"),
    ],
)
def test_what_is_no_text_says_why(value: object, reason: str) -> None:
    with pytest.raises(NotText) as caught:
        text_of("output", value)
    assert reason in str(caught.value)


def test_no_messages_are_no_text_in_a_column_either() -> None:
    column = pa.array([[{"content": "a"}], [], None, [{"content": ""}]])
    texts, errors = texts_of("prompt", column)
    assert texts.to_pylist() == ["a", None, None, ""]
    assert list(errors) == [1]
    assert "empty list of messages" in errors[1]
