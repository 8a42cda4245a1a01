"""Tokenizers that make much of little text: refused before they are built."""

from __future__ import annotations

import json
import shutil
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from polar_ray.encoding import load_tokenizer
from polar_ray.encoding.growth import FACTORS, MOST_GROWTH, MOST_STEPS, growth
from polar_ray.errors import ConfigError

DOUBLE = {"type": "Replace", "pattern": {"String": "x"}, "content": "xx"}
TO_BYTES = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}
SPACED = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
SUBWORDS = {"type": "WordPiece", "prefix": "#", "cleanup": False}


def sequence(part: str, steps: list[Any]) -> dict[str, Any]:
    inner = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
    return {"type": "Sequence", inner[part]: steps}


BOMBS: list[tuple[str, Any]] = [
    ("normalizer", sequence("normalizer", [DOUBLE] * 20)),
    ("normalizer", sequence("normalizer", [sequence("normalizer", [DOUBLE] * 10)] * 2)),
    ("normalizer", sequence("normalizer", [{"type": "Prepend", "prepend": "x"}] * 30)),
    ("normalizer", {"type": "Prepend", "prepend": "x" * 1000}),
    ("normalizer", {**DOUBLE, "content": "x" * 1000}),
    ("normalizer", {**DOUBLE, "pattern": {"Regex": "x{1000}|"}, "content": "x" * 1000}),
    ("normalizer", {**DOUBLE, "pattern": {"String": ""}, "content": "x" * 1000}),
    ("normalizer", sequence("normalizer", [{"type": "Lowercase"}] * 1000)),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    ("normalizer", {"type": "NoSuch"}),
    ("normalizer", {"type": ["Strip"]}),
    ("normalizer", {"type": "Sequence", "normalizers": {"type": "Strip"}}),
    ("normalizer", {"lowercase": True}),
    ("normalizer", [DOUBLE]),
    ("pre_tokenizer", sequence("pre_tokenizer", [TO_BYTES] * 20)),
    ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    ("decoder", sequence("decoder", [DOUBLE] * 20)),
    ("decoder", sequence("decoder", [SUBWORDS] * 20)),
]


def with_part(tiny_dir: Path, folder: Path, **parts: Any) -> Path:
    shutil.copy(tiny_dir / "tokenizer_config.json", folder)
    spec = json.loads((tiny_dir / "tokenizer.json").read_text())
    # A token that is looked for in normalized text is normalized when the tokenizer is built.
    token = {"id": 399, "content": "x", "normalized": True, "special": False}
    token |= {"single_word": False, "lstrip": False, "rstrip": False}
    spec["added_tokens"].append(token)
    (folder / "tokenizer.json").write_text(json.dumps({**spec, **parts}))
    return folder


@pytest.mark.parametrize(("part", "value"), BOMBS, ids=lambda value: str(value)[:60])
def test_a_part_that_makes_much_of_little_text_is_refused(
    tiny_dir: Path, tmp_path: Path, part: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=rf"tokenizer\.json: its {part} ") as error:
        load_tokenizer(with_part(tiny_dir, tmp_path, **{part: value}))
    assert len(str(error.value)) < 500


def test_parts_count_together(tiny_dir: Path, tmp_path: Path) -> None:
    parts = {"normalizer": sequence("normalizer", [DOUBLE] * 4), "pre_tokenizer": TO_BYTES}
    with pytest.raises(ConfigError, match="its normalizer and pre_tokenizer can make"):
        load_tokenizer(with_part(tiny_dir, tmp_path, **parts))


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": None},
        {"normalizer": {"type": "NFC"}},
        {"normalizer": {"type": "NFKC"}, "pre_tokenizer": None},
        {
            "normalizer": sequence(
                "normalizer", [{"type": "Prepend", "prepend": "\u2581"}, SPACED]
            ),
            "pre_tokenizer": None,
            "decoder": sequence(
                "decoder",
                [
                    {**SPACED, "pattern": {"String": "\u2581"}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                ],
            ),
        },
    ],
    ids=lambda parts: str(parts)[:60],
)
def test_what_published_models_have_loads(
    tiny_dir: Path, tmp_path: Path, parts: dict[str, Any]
) -> None:
    load_tokenizer(with_part(tiny_dir, tmp_path, **parts)).encode("a x")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"unk_token": "u" * 5000}, "has a piece of 5000 characters"),
        ({"continuing_subword_prefix": "u" * 5000}, "continuing_subword_prefix"),
        ({"end_of_word_suffix": "u" * 5000}, "end_of_word_suffix"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_piece_that_stands_for_little_text_is_short(
    tiny_dir: Path, tmp_path: Path, model: dict[str, str], message: str
) -> None:
    spec = json.loads((tiny_dir / "tokenizer.json").read_text())
    if "unk_token" in model:
        spec["model"]["vocab"][model["unk_token"]] = 398
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(
            with_part(tiny_dir, tmp_path, model={**spec["model"], "merges": [], **model})
        )


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"])
def test_no_character_grows_more_than_is_said(form: str) -> None:
    change = str.lower if form == "Lowercase" else partial(unicodedata.normalize, form)
    everything = (chr(n) for n in range(0x110000) if not 0xD800 <= n < 0xE000)
    most = max(len(change(c).encode()) / len(c.encode()) for c in everything)
    assert FACTORS["normalizer"][form] / 2 < most <= FACTORS["normalizer"][form] <= MOST_GROWTH


def test_growth_is_the_product_of_the_steps() -> None:
    steps = [DOUBLE, {"type": "NFC"}, {**DOUBLE, "pattern": {"String": "xx"}, "content": "xxx"}]
    assert growth("normalizer", sequence("normalizer", steps)) == 2 * 3 * 2
    assert growth("normalizer", None) == growth("decoder", {"type": "Fuse"}) == 1
    assert growth("normalizer", sequence("normalizer", [{"type": "Strip"}] * MOST_STEPS)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda proto: setattr(
                proto.normalizer_spec, "precompiled_charsmap", bytes(4) + b"x" * 1000 + b"\0"
            ),
            "its normalizer can make one character 1000 bytes",
        ),
        (
            lambda proto: setattr(proto.denormalizer_spec, "precompiled_charsmap", bytes(8)),
            "has a denormalizer",
        ),
        (
            lambda proto: setattr(proto.trainer_spec, "unk_surface", "u" * 1000),
            "unk_surface",
        ),
    ],
    ids=["normalizer", "denormalizer", "unk_surface"],
)
def test_a_sentencepiece_model_that_makes_much_of_little_text_is_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    make_sentencepiece(tmp_path)
    path, proto = tmp_path / "tokenizer.model", ModelProto()
    proto.ParseFromString(path.read_bytes())
    change(proto)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(tmp_path)
