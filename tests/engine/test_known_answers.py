"""Known answers: computed once for each model, kept, and able to name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_checkpoint

from polar_ray.config import NativeEngineConfig
from polar_ray.engine import known_answers as module
from polar_ray.engine.known_answers import known_answers
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.questions import alone, covering_ids
from polar_ray.errors import ConfigError
from polar_ray.model import load_config


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "deep"


def test_the_native_engine_knows_them(tiny_dir: Path, cache: Path) -> None:
    known = known_answers(tiny_dir, cache)
    engine = NativeEngine(NativeEngineConfig(), tiny_dir)
    known.check(alone(engine)(known.ids), 1e-5)
    assert known.longest == 600
    assert min(map(len, known.ids)) == 1
    assert [len(row) for row in known.long.ids] == [1100]
    known.check_vocabulary(alone(engine)(known.vocabulary.ids), 1e-5)
    known.check_long(alone(engine)(known.long.ids), 1e-5)


def test_they_are_computed_once(
    tiny_dir: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = known_answers(tiny_dir, cache)
    monkeypatch.setattr(module, "compute", lambda folder: pytest.fail("computed again"))
    again = known_answers(tiny_dir, cache)
    assert np.array_equal(first.scores, again.scores)
    assert all(np.array_equal(a, b) for a, b in zip(first.ids, again.ids, strict=True))
    assert first.altered.keys() == again.altered.keys()
    for name in ("vocabulary", "long"):
        one, other = getattr(first, name), getattr(again, name)
        assert np.array_equal(one.scores, other.scores)
        assert np.array_equal(one.ids, other.ids)
    assert [path.suffix for path in cache.iterdir()] == [".json"]


def test_other_weights_have_others(tiny_dir: Path, other_dir: Path, cache: Path) -> None:
    known, other = known_answers(tiny_dir, cache), known_answers(other_dir, cache)
    assert len(list(cache.iterdir())) == 2
    with pytest.raises(ConfigError, match="other weights, or another model"):
        known.check(other.scores, 1e-3)


@pytest.mark.parametrize("damage", ["cut", "number", "not JSON", "empty", "a folder"])
def test_a_damaged_file_is_computed_anew(tiny_dir: Path, cache: Path, damage: str) -> None:
    first = known_answers(tiny_dir, cache)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    changed = json.loads(whole)
    changed["scores"][0] += 1
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "cut": whole[: len(whole) // 2],
                "number": json.dumps(changed).encode(),
                "not JSON": b"\xff\x00",
                "empty": b"",
            }[damage]
        )
    again = known_answers(tiny_dir, cache)
    assert np.array_equal(first.scores, again.scores)
    assert damage == "a folder" or json.loads(path.read_bytes()) == json.loads(whole)


def test_without_a_place_to_keep_them_they_are_computed(tiny_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert len(known_answers(tiny_dir, tmp_path / "file" / "cache").ids) > 5


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert module.user_cache() == tmp_path / "polar_ray" / "known_answers"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert module.user_cache() == Path("/home/somebody/.cache/polar_ray/known_answers")


def test_biases_that_are_left_out_are_named(golden: Path, cache: Path) -> None:
    known = known_answers(golden / "model" / "mha_bias", cache)
    with pytest.raises(ConfigError, match="biases are left out"):
        known.check(known.altered["unbiased"], 1e-4)


@pytest.mark.parametrize(
    ("fault", "named"), [("stretched", "wrong dynamic RoPE"), ("unscaled", "is left out")]
)
def test_dynamic_rope_that_is_another_is_named(
    golden: Path, cache: Path, fault: str, named: str
) -> None:
    known = known_answers(golden / "model" / "rope_dynamic", cache)
    with pytest.raises(ConfigError, match=named):
        known.check(known.altered[fault], 1e-4)


def test_long_dynamic_rope_is_tried_beyond_its_own_positions(tmp_path: Path, cache: Path) -> None:
    folder = make_checkpoint(
        tmp_path / "long", max_position_embeddings=512, rope_kind="dynamic", rope_factor=2.0
    )
    known = known_answers(folder, cache)
    assert known.longest == 768
    assert len(known.long.ids) == 1


def test_rotary_theta_shows(tmp_path: Path, tiny_dir: Path, cache: Path) -> None:
    other = make_checkpoint(tmp_path / "theta", rope_theta=1e4)
    known, wrong = known_answers(tiny_dir, cache), known_answers(other, cache)
    with pytest.raises(ConfigError, match="wrong rotary table"):
        known.check(wrong.scores, 1e-4)


def test_a_short_model_is_asked_for_no_more_than_it_has(tmp_path: Path, cache: Path) -> None:
    folder = make_checkpoint(tmp_path / "short", max_position_embeddings=64)
    known = known_answers(folder, cache)
    assert known.longest == 64
    assert not known.long.ids
    folder = make_checkpoint(tmp_path / "two", max_position_embeddings=2)
    known = known_answers(folder, cache)
    assert {len(row) for row in known.vocabulary.ids} == {2}
    folder = make_checkpoint(tmp_path / "between", max_position_embeddings=700)
    assert [len(row) for row in known_answers(folder, cache).long.ids] == [700]


def test_what_is_too_long_for_an_engine_is_left_out(tiny_dir: Path, cache: Path) -> None:
    known = known_answers(tiny_dir, cache)
    some = known.within(64)
    assert [len(row) for row in some.ids] == [1, 2, 3, 7, 16, 33, 64]
    assert all(len(scores) == 7 for scores in (some.scores, *some.altered.values()))
    assert len(some.vocabulary.ids) == len(known.vocabulary.ids) == len(some.vocabulary.scores)
    assert len(some.long.ids) == len(some.long.scores) == 0
    some.check(some.scores, 1e-6)
    some.check_long(some.long.scores, 1e-6)
    with pytest.raises(ConfigError, match="read at the first token"):
        some.check(some.altered["first"], 1e-4)
    assert known.within(1100).long.ids
    assert not known.within(0).ids


def test_short_questions_hold_the_vocabulary_or_much_of_it(tiny_dir: Path) -> None:
    shape = load_config(tiny_dir)
    ids = covering_ids(shape, 128, 16)
    assert {len(row) for row in ids} == {16}
    assert set(np.concatenate(ids).tolist()) == set(range(400))
    large = covering_ids(shape.model_copy(update={"vocab_size": 92544}), 128, 16)
    assert len(large) == 128
    assert len(np.unique(np.concatenate([row[:-1] for row in large]))) == 128 * 15
    assert all(row[-1] == shape.reward_token_id for row in large)
    assert covering_ids(shape, 128, 1) == []


def test_wrong_embeddings_and_cut_records_are_named(tiny_dir: Path, cache: Path) -> None:
    known = known_answers(tiny_dir, cache)
    engine = NativeEngine(NativeEngineConfig(), tiny_dir)
    one = int(known.vocabulary.ids[3][5])
    changed = [np.where(row == one, one - 1, row) for row in known.vocabulary.ids]
    with pytest.raises(ConfigError, match=r"^1 of 27 sequences .* wrong embeddings"):
        known.check_vocabulary(alone(engine)(changed), 1e-4)
    with pytest.raises(ConfigError, match=r"^27 of 27 .* wrong embeddings"):
        known.check_vocabulary(known.vocabulary.scores[::-1] + 1, 1e-4)
    with pytest.raises(ConfigError, match=r"rounded to a coarser type .* or wrong embeddings"):
        known.check_vocabulary(known.vocabulary.scores + np.float32(0.01), 1e-4)
    with pytest.raises(ConfigError, match="1 of them not finite: wrong embeddings"):
        known.check_vocabulary(np.append(known.vocabulary.scores[1:], np.float32(np.nan)), 1e-4)
    with pytest.raises(ConfigError, match="shape"):
        known.check_vocabulary(known.vocabulary.scores[1:], 1e-4)
    cut = alone(engine)([row[-1000:] for row in known.long.ids])
    with pytest.raises(ConfigError, match=r"1100 tokens is off by .* a shorter window"):
        known.check_long(cut, 1e-4)
    with pytest.raises(ConfigError, match="a shorter window"):
        known.check_long(np.float32([np.nan]), 1e-4)


def test_a_shorter_window_is_named(tiny_dir: Path, cache: Path) -> None:
    known = known_answers(tiny_dir, cache)
    engine = NativeEngine(NativeEngineConfig(), tiny_dir)
    cut = alone(engine)([row[-200:] for row in known.ids])
    with pytest.raises(ConfigError, match="all of 257 tokens or more: a shorter window"):
        known.check(cut, 1e-4)


def test_scores_that_change_or_are_too_few_are_refused(tiny_dir: Path, cache: Path) -> None:
    known = known_answers(tiny_dir, cache)
    with pytest.raises(ConfigError, match="not repeatable"):
        known.check(known.scores, 1e-4, again=known.scores + 1)
    with pytest.raises(ConfigError, match="shape"):
        known.check(known.scores[:-1], 1e-4)


def test_weights_without_scores_are_refused(tmp_path: Path, cache: Path) -> None:
    from checkpoints import without_numbers

    folder = make_checkpoint(tmp_path / "nan")
    without_numbers(folder)
    with pytest.raises(ConfigError, match="no finite scores"):
        known_answers(folder, cache)
    assert not cache.exists()
