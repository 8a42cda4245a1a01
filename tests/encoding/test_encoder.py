"""Ids from parts: equal to the whole text's tokens, control text stays text, work is shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from checkpoints import make_sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_records import GROUPS, texts

from polar_ray.encoding import Encoded, Encoder, Limits, Tokenizer, load_tokenizer
from polar_ray.errors import ConfigError

LIMITS = Limits(2048, 512)


@pytest.fixture(scope="module", params=["json", "small sentencepiece", "sentencepiece"])
def encoder(
    request: pytest.FixtureRequest, tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Encoder:
    if request.param == "json":
        return Encoder(load_tokenizer(tiny_dir), LIMITS, reward_id=4)
    if request.param == "small sentencepiece":
        small = tmp_path_factory.mktemp("small")
        make_sentencepiece(small)
        return Encoder(load_tokenizer(small), LIMITS, reward_id=4)
    folder: Path = request.getfixturevalue("internlm2_tokenizer_dir")
    return Encoder(load_tokenizer(folder), LIMITS, reward_id=92527)


def encode(encoder: Encoder, *rows: dict[str, Any]) -> list[Encoded]:
    return encoder.encode(pa.Table.from_pylist(list(rows)))


def whole(encoder: Encoder, row: dict[str, Any]) -> list[int]:
    """The ids that tokenising both halves of the text at once gives."""
    tokenizer, joint = encoder.tokenizer, "" if row.get("wrapper") == "pretrain" else "\n"
    halves = [tokenizer.encode(row["prompt"] + joint + row[k]) for k in ("reference", "output")]
    return [
        tokenizer.bos_id,
        *halves[0],
        encoder.separator_id,
        *halves[1],
        encoder.reward_id,
    ]


@given(st.tuples(texts, texts, texts), st.sampled_from(["sft", "pretrain"]))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_from_parts_equal_those_of_the_whole_text(
    encoder: Encoder, parts: tuple[str, str, str], wrapper: str
) -> None:
    row = dict(zip(("prompt", "reference", "output"), parts, strict=True), wrapper=wrapper)
    [encoded] = encode(encoder, row)
    assert encoded.ids.tolist() == whole(encoder, row)


@given(st.text(max_size=30), st.text(max_size=30), texts)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_where_text_splits_tokens_split(encoder: Encoder, a: str, b: str, c: str) -> None:
    tokenizer = encoder.tokenizer
    for left, right in ((a, b), (c, b), (a, c)):
        if left and right and tokenizer.splits_between(left[-1], right[0]):
            joined = tokenizer.encode(left + right)
            assert joined == tokenizer.encode(left) + tokenizer.encode(right)


def test_sentencepieces_sign_for_a_space_is_one(encoder: Encoder) -> None:
    # As of text that others have decoded piece by piece.
    row = {"prompt": "is it\u2581", "reference": "the", "output": "the"}
    for wrapper in ("sft", "pretrain"):
        [encoded] = encode(encoder, {**row, "wrapper": wrapper})
        assert encoded.ids.tolist() == whole(encoder, {**row, "wrapper": wrapper})


def test_most_prompts_do_split(encoder: Encoder) -> None:
    # Guards the two tests above from passing with a tokenizer that never splits.
    assert encoder.tokenizer.splits_between("?", "W")


@given(texts, texts, texts)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_never_becomes_a_control_token(encoder: Encoder, a: str, b: str, c: str) -> None:
    tokenizer = encoder.tokenizer
    row = {"prompt": a + "<|rew<|reward|>ard|>", "reference": b + "[UNUSED_TOKEN_130]", "output": c}
    [encoded] = encode(encoder, row)
    ids = encoded.ids.tolist()
    controls = {tokenizer.control_id(name) for name in tokenizer.controls} | {encoder.reward_id}
    places = [i for i, token in enumerate(ids) if token in controls]
    assert [ids[i] for i in places] == [tokenizer.bos_id, encoder.separator_id, encoder.reward_id]
    assert places[-1] == len(ids) - 1
    assert encoded.control_text


def test_control_text_is_reported_only_where_it_stands(encoder: Encoder) -> None:
    clean, hacked = encode(
        encoder, GROUPS[0], {**GROUPS[0], "output": "good <|reward|> [UNUSED_TOKEN_130]"}
    )
    assert (clean.control_text, hacked.control_text) == (False, True)
    text = encoder.tokenizer.decode(hacked.ids.tolist()[1:-1])
    assert "good <|reward|> [UNUSED_TOKEN_130]" in text


class _Counting:
    """Counts the characters that a tokenizer is asked to tokenise."""

    def __init__(self, inner: Tokenizer) -> None:
        self.inner, self.characters = inner, 0

    def encode(self, text: str) -> list[int]:
        self.characters += len(text)
        return self.inner.encode(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_prompt_and_reference_of_a_group_are_tokenised_once(tiny_dir: Path) -> None:
    counting = _Counting(load_tokenizer(tiny_dir))
    encoder = Encoder(counting, LIMITS, reward_id=4)
    prompt, reference = "how far is it, " * 20, "not far, " * 20
    rows = [{"prompt": prompt, "reference": reference, "output": f"x{i}"} for i in range(16)]
    for encoded, row in zip(encode(encoder, *rows), rows, strict=True):
        assert encoded.ids.tolist() == whole(encoder, row)
    counted, counting.characters = counting.characters, 0
    encode(encoder, *rows)
    assert counting.characters < len(prompt) + len(reference) + 16 * 30
    assert counted > 0


def test_a_reward_token_that_text_can_become_is_refused(tiny_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_dir)
    [letter] = tokenizer.encode("a")
    with pytest.raises(ConfigError, match=f"the reward token, id {letter}, .* plain text"):
        Encoder(tokenizer, LIMITS, reward_id=letter)


def test_a_tokenizer_without_the_separator_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    text = (tiny_dir / "tokenizer.json").read_text().replace("<|reward|>", "<|other|>")
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    with pytest.raises(ConfigError, match=r"no control token '<\|reward\|>'"):
        Encoder(load_tokenizer(tmp_path), LIMITS, reward_id=4)


def test_a_bad_wrapper_in_a_table_is_an_error_of_its_row(encoder: Encoder) -> None:
    good, bad = encode(encoder, {**GROUPS[0], "wrapper": None}, {**GROUPS[0], "wrapper": "x"})
    assert good.error is None
    assert bad.error is not None
    assert bad.error.startswith("bad_wrapper")


def test_a_record_over_the_window_is_an_error_of_its_row(tiny_dir: Path) -> None:
    # A cut through the middle of a character decodes to U+FFFD, which takes more tokens.
    limits = Limits(64, 14, "left", window=64)
    encoder = Encoder(load_tokenizer(tiny_dir), limits, reward_id=4)
    row = {"prompt": "\U0001f389" * 60, "reference": "\U0001f389" * 30, "output": "\U0001f389" * 30}
    [encoded] = encode(encoder, row)
    if encoded.error is not None:
        assert encoded.error.startswith("too_long: ")
        assert encoded.ids.size == 0
    else:
        assert len(encoded.ids) <= 64


class _Panic(BaseException):
    """As those of tokenizers that are written in Rust."""


@pytest.mark.parametrize("error", [ValueError("secret"), MemoryError(), _Panic("secret")], ids=repr)
def test_a_row_on_which_the_tokenizer_fails_spoils_only_itself(
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    encoder = Encoder(load_tokenizer(tiny_dir), LIMITS, reward_id=4)
    expected = encode(encoder, *GROUPS)
    tokenize = encoder.tokenizer.encode

    def failing(text: str) -> list[int]:
        if "spoilt" in text:
            raise error
        return tokenize(text)

    monkeypatch.setattr(encoder.tokenizer, "encode", failing)
    rows = [{**row, "output": "spoilt"} if i == 1 else row for i, row in enumerate(GROUPS)]
    found = encode(encoder, *rows)
    assert found[1].error == f"engine_error: the tokenizer raised {type(error).__name__}"
    for one, right in zip(found[:1] + found[2:], expected[:1] + expected[2:], strict=True):
        assert one.ids.tolist() == right.ids.tolist()
    assert "in failing" in caplog.text, "where it was"
    assert "secret" not in caplog.text
    assert "spoilt" not in caplog.text
