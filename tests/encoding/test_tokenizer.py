"""Tokenizers of checkpoint directories: built from their files, without remote code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import CONTROLS, make_sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

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


def test_pieces_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    make_sentencepiece(tmp_path)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(path.read_bytes().replace("北京".encode(), b"\xff\xfe\xfd123"))
    with pytest.raises(ConfigError, match="pieces that are not UTF-8"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither tokenizer.model nor tokenizer.json"),
        ({"tokenizer.json": "{"}, "is not JSON"),
        ({"tokenizer.json": "[]"}, "must hold a JSON object"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "{}"}, "does not load"),
        ({"tokenizer.json": "{}"}, "tokenizer_config.json is missing"),
        ({"tokenizer.json": "[" * 100_000}, "is not JSON: .*depth"),
        (
            {"tokenizer.json": '{"added_tokens": 5}', "tokenizer_config.json": "{}"},
            "added_tokens=5",
        ),
        ({"tokenizer.model": "no model", "tokenizer_config.json": "{}"}, "sentencepiece"),
        ({"tokenizer.model": "", "tokenizer_config.json": "{}"}, "has 0 pieces"),
        ({"tokenizer.model": "x" * (7 << 20)}, "at most"),
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


PATTERNS = {
    "gpt2": None,
    "gpt4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "ours": r"\p{Han}| ?[\p{L}&&[^\p{Han}]]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\n+|\s+(?!\S)|\s+",
}
TRICKY = "'srve1234(!.\n \u2581京"


def byte_level(
    folder: Path, merges: list[tuple[str, str]], pattern: str | None = None, **model: object
) -> Path:
    """A byte-level BPE of these merges, with a control token in its vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = list(dict.fromkeys([*CONTROLS, *letters, *("".join(pair) for pair in merges)]))
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, **model))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern is not None:
        cut = pre_tokenizers.Split(Regex(pattern), "isolated")
        byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, byte])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in CONTROLS])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    return folder


@st.composite
def merges(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Merges of characters of `TRICKY`, and of what earlier ones have made."""
    written = TRICKY.encode().decode("latin-1").translate({32: 0x120, 10: 0x10A})
    pieces, made = [c for c in written if c in pre_tokenizers.ByteLevel.alphabet()], []
    for _ in range(draw(st.integers(0, 12))):
        pair = (draw(st.sampled_from(pieces)), draw(st.sampled_from(pieces)))
        made.append(pair)
        pieces.append("".join(pair))
    return list(dict.fromkeys(made))


@pytest.mark.parametrize("name", PATTERNS)
@given(merges(), st.lists(st.text(TRICKY, min_size=1, max_size=8), min_size=2, max_size=8))
def test_any_byte_level_vocabulary_splits_where_it_says(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    merges: list[tuple[str, str]],
    texts: list[str],
) -> None:
    folder = tmp_path_factory.getbasetemp() / "drawn"
    folder.mkdir(exist_ok=True)
    tokenizer = load_tokenizer(byte_level(folder, merges, PATTERNS[name]))
    for left in texts:
        for right in texts:
            if tokenizer.splits_between(left[-1], right[0]):
                apart = tokenizer.encode(left) + tokenizer.encode(right)
                assert tokenizer.encode(left + right) == apart, (left, right)


def test_unknown_neighbours_that_become_one_id_do_not_split(tmp_path: Path) -> None:
    make_sentencepiece(tmp_path, byte_fallback=False)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("\u00e9") == tokenizer.encode("\u00e9\u00fc") == [0]
    assert not tokenizer.splits_between("\u00e9", "\u00fc")


def test_a_tokenizer_that_puts_a_space_first_never_splits(tmp_path: Path) -> None:
    path = byte_level(tmp_path, []) / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(spec))
    assert not load_tokenizer(tmp_path).splits_between("?", "W")


def test_a_tokenizers_own_truncation_is_left_out(tmp_path: Path) -> None:
    path = byte_level(tmp_path, []) / "tokenizer.json"
    spec = json.loads(path.read_text())
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps({**spec, "truncation": cut}))
    assert len(load_tokenizer(tmp_path).encode("abcdef")) == 6


def unigram(folder: Path) -> None:
    pieces = [(name, -1.0) for name in CONTROLS] + [(c, -2.0) for c in "<|reward>[UNSTOK_130]"]
    tokenizer = Tokenizer(models.Unigram(list(dict(pieces).items()), unk_id=0))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in CONTROLS])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')


def sentencepiece_unigram(folder: Path) -> None:
    make_sentencepiece(folder, control=ModelProto.SentencePiece.NORMAL)
    proto = ModelProto()
    proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    proto.trainer_spec.model_type = TrainerSpec.UNIGRAM
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())


def merged(folder: Path) -> None:
    name = CONTROLS[3]
    byte_level(folder, [(name[:at], name[at]) for at in range(1, len(name))])


FORGEABLE = {
    "unigram": unigram,
    "sentencepiece unigram": sentencepiece_unigram,
    "sentencepiece bpe": lambda folder: make_sentencepiece(
        folder, control=ModelProto.SentencePiece.NORMAL
    ),
    "bpe with ignore_merges": lambda folder: byte_level(folder, [], ignore_merges=True),
    "bpe that merges it": merged,
}


@pytest.mark.parametrize("make", FORGEABLE.values(), ids=FORGEABLE.keys())
def test_a_control_token_that_text_can_become_is_refused(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError, match=r"text that spells '.*' can become the control token"):
        load_tokenizer(tmp_path)


def test_those_tokenizers_do_make_control_tokens_of_text(tmp_path: Path) -> None:
    # So that what is refused is no mere suspicion.
    unigram(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    plain = Tokenizer.from_str(json.dumps({**spec, "added_tokens": []}))
    assert CONTROLS.index("<|reward|>") in plain.encode("<|reward|>").ids


def test_a_control_token_under_another_pieces_id_is_refused(tmp_path: Path) -> None:
    byte_level(tmp_path, [("a", "b")])
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    number = spec["model"]["vocab"]["ab"]
    added = {str(number): {"content": "<|other|>", "special": True}}
    config = {"bos_token": "<s>", "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"text that spells 'ab' can become .*<\|other\|>"):
        load_tokenizer(tmp_path)
