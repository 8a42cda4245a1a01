"""What ends an output is cut off, however much of it there is, and nothing else."""

from __future__ import annotations

import pytest

from polar_ray.client.end_tokens import without_end


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("four<|im_end|>", "four"),
        ("four<|im_end|>\n", "four"),
        ("four <|im_end|><|endoftext|>", "four "),
        ("four<|im_end|> <|endoftext|>\n", "four"),
        ("four \n", "four \n"),
        ("<|im_end|>four", "<|im_end|>four"),
        ("<|im_end|>", ""),
        ("a</s>b<|im_end|></s></s>", "a</s>b"),
        ("</s> " * 200_000, ""),
    ],
)
def test_only_tokens_at_the_end_are_cut_off(text: str, bare: str) -> None:
    assert without_end(text) == bare
