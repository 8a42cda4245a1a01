"""Tokenizers of checkpoint directories: built from their files, without remote code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from polar_ray.encoding import load_tokenizer
from polar_ray.errors import ConfigError


def test_internlm2s_control_tokens_keep_their_ids(internlm2_tokenizer_dir: Path) -> None:
    tokenizer = load_tokenizer(internlm2_tokenizer_dir)
    assert tokenizer.vocab_size == 92544
    assert tokenizer.bos_id == 1
    assert tokenizer.control_id("<|reward|>") == 92397
    assert tokenizer.control_id("[UNUSED_TOKEN_130]") == 92527
    assert tokenizer.control_id("<|im_start|>") == 92543


@pytest.mark.parametrize(
    "text", ["[UNUSED_TOKEN_130]", "a[UNUSED_TOKEN_130]b", "<s>", "<|reward|>"]
)
def test_control_strings_are_plain_text(internlm2_tokenizer_dir: Path, text: str) -> None:
    tokenizer = load_tokenizer(internlm2_tokenizer_dir)
    ids = tokenizer.encode(text)
    assert len(ids) > 1
    assert not {tokenizer.control_id(name) for name in tokenizer.controls} & set(ids)
    assert tokenizer.decode(ids) == text


def test_an_unknown_tokenizer_class_does_not_matter(tiny_dir: Path) -> None:
    config = json.loads((tiny_dir / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "NoSuchTokenizer"
    assert load_tokenizer(tiny_dir).decode(load_tokenizer(tiny_dir).encode("北京 x")) == "北京 x"


def test_a_bos_token_written_as_an_object(tiny_dir: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_dir / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "<s>"}}')
    assert load_tokenizer(tmp_path).bos_id == load_tokenizer(tiny_dir).bos_id


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither tokenizer.model nor tokenizer.json"),
        ({"tokenizer.json": "{"}, "is not JSON"),
        ({"tokenizer.json": "[]"}, "must hold a JSON object"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "{}"}, "does not load"),
        ({"tokenizer.json": "{}"}, "tokenizer_config.json is missing"),
        ({"tokenizer.model": "no model", "tokenizer_config.json": "{}"}, "sentencepiece"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_wrong_with_a_tokenizer_is_named(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(tmp_path)
