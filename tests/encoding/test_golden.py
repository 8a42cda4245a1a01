"""The 39 golden cases of the upstream client's `encode`: same text, and the ids of that text."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from polar_ray.encoding import Encoder, Limits, Tokenizer, load_tokenizer, template
from polar_ray.records import to_batch

CASES = Path(__file__).parents[1] / "golden" / "encode.jsonl"
REWARD_ID = 92527


@cache
def tokenizer_of(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


def test_there_are_39_cases() -> None:
    assert len(cases()) == 39


@pytest.mark.parametrize("case", cases(), ids=range(39))
def test_text_and_ids_equal_upstream(case: dict[str, Any], internlm2_tokenizer_dir: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    tokenizer = tokenizer_of(internlm2_tokenizer_dir)
    settings = case["settings"]
    limits = Limits(
        settings.get("max_length", 16384),
        settings.get("max_response_length", 4096),
        settings.get("response_cut_side", "right"),
    )
    encoder = Encoder(tokenizer, limits, reward_id=REWARD_ID)
    table = to_batch([case["input"]]).table
    row = table.to_pylist()[0]
    texts = encoder.texts(row["prompt"], row["reference"], row["output"])
    wrapper = row.get("wrapper") or "sft"
    assert template.text(texts.prompt, texts.reference, texts.output, wrapper) == case["text"]

    raw = SentencePieceProcessor(model_file=str(internlm2_tokenizer_dir / "tokenizer.model"))
    body = case["text"].removesuffix(template.REWARD_TOKEN)
    first, second = body.split(template.SEPARATOR)
    separator = tokenizer.control_id(template.SEPARATOR)
    expected = [1, *raw.encode(first), separator, *raw.encode(second), REWARD_ID]
    [encoded] = encoder.encode(table)
    assert encoded.ids.tolist() == expected
    assert encoded.truncated == (
        [texts.prompt, texts.reference, texts.output]
        != [row["prompt"], row["reference"], row["output"]]
    )
