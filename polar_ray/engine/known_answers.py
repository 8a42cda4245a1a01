"""Known answers: what a foreign engine must score before it is believed.

A few sequences of ids of all lengths and their scores by the native engine in float32 on a CPU,
together with what engines with known faults would say; and, for engines that give those, many short
sequences of other ids and a longer one. They are computed once for each model and kept in the
user's cache folder. Knows no engine but the native one, and nothing of servers.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from polar_ray.config import NativeEngineConfig
from polar_ray.encoding import load_tokenizer
from polar_ray.engine.answer_file import read, write
from polar_ray.engine.answers import Answered, KnownAnswers
from polar_ray.engine.questions import alone, altered, covering_ids, random_ids, together
from polar_ray.errors import ConfigError
from polar_ray.model import ModelConfig, load_config
from polar_ray.planning import Ids

logger = logging.getLogger(__name__)

EDITION = "3"
"""Of the questions and of the file that keeps them: another one makes old files unknown."""

LENGTHS = (1, 2, 3, 7, 16, 33, 64, 129, 257, 600)
"""Tokens of the questions. One needs no rotary table; the long ones show one that is slightly
wrong, and a shorter window."""

LONG = 1100
"""Tokens of one more question, or as many as the model reads: it shows a window that is shorter
than that. A longer one, or this one with every fault, would take a large model on a CPU minutes."""

VOCABULARY = 128
VOCABULARY_TOKENS = 16
"""So many short questions of so many tokens hold other ids each, for embeddings that are wrong."""

LONGEST_SCALED = 2048
"""Dynamic RoPE shows beyond the model's own positions; where they are more than this, records of
such a length are too dear to ask on a CPU, and only shorter ones are tried."""

INTERNLM2_BOS = 1
"""Where a checkpoint has no tokenizer that loads here."""


def known_answers(model_dir: Path, cache_dir: Path | None = None) -> KnownAnswers:
    """Of the checkpoint in `model_dir`; computed if the cache does not have them. Raises
    `ConfigError` where the native engine cannot load or score it."""
    from polar_ray.model.weights import digest

    folder = user_cache() if cache_dir is None else cache_dir
    path = folder / f"{digest(model_dir, 'float32', f'known answers {EDITION}')}.json"
    if (kept := read(path)) is not None:
        return kept
    answers = compute(model_dir)
    write(path, answers)
    return answers


def user_cache() -> Path:
    """Where known answers are kept: XDG_CACHE_HOME, or ~/.cache, as usual on Linux."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "polar_ray" / "known_answers"


def compute(model_dir: Path) -> KnownAnswers:
    """By the native engine, which is loaded for that and let go of."""
    from polar_ray.engine.native import NativeEngine

    shape = load_config(model_dir)
    bos = _bos(model_dir) % shape.vocab_size
    ids = questions(shape, bos)
    vocabulary = covering_ids(shape, VOCABULARY, _within(shape, VOCABULARY_TOKENS))
    long = long_question(shape, max(map(len, ids)))
    logger.info("computing known answers of %s in float32 on the CPU, once", model_dir)
    engine = NativeEngine(NativeEngineConfig(device="cpu", dtype="float32"), model_dir)
    try:
        score = alone(engine)
        truth = score(ids)
        of_vocabulary, of_long = together(engine, vocabulary), score(long)
        if not np.isfinite([*truth, *of_vocabulary, *of_long]).all():
            raise ConfigError(f"{model_dir} has no finite scores, by the native engine either")
        others = altered(ids, score, alone(engine, rotate=False), bos=bos)
        if shape.rope_kind == "dynamic":
            longest = int(shape.max_position_embeddings * shape.rope_factor)
            others["stretched"] = alone(engine, scaled_as=longest)(ids)
            others["unscaled"] = alone(engine, scaled_as=1)(ids)
        if shape.bias:
            _drop_biases(engine)
            others["unbiased"] = score(ids)
    finally:
        engine.close()
    return KnownAnswers(
        ids, truth, others, Answered(vocabulary, of_vocabulary), Answered(long, of_long)
    )


def questions(shape: ModelConfig, bos: int) -> list[Ids]:
    """Every second one begins as records do, with BOS."""
    lengths = [length for length in LENGTHS if length == _within(shape, length)]
    if shape.scaled_above is not None and shape.scaled_above <= LONGEST_SCALED:
        lengths.append(shape.scaled_above + shape.scaled_above // 2)
    ids = random_ids(shape, lengths)
    for row in ids[1::2]:
        if len(row) > 1:
            row[0] = bos
    return ids


def long_question(shape: ModelConfig, longest: int) -> list[Ids]:
    """One of more tokens than the others, whose longest has so many; none, if there can be none."""
    length = _within(shape, LONG)
    return random_ids(shape, [length], seed=1) if length > longest else []


def _within(shape: ModelConfig, length: int) -> int:
    """So many tokens, or as many as the model reads."""
    return length if shape.window is None else min(length, shape.window)


def _bos(model_dir: Path) -> int:
    try:
        return load_tokenizer(model_dir).bos_id
    except ConfigError:  # ids do without
        return INTERNLM2_BOS


def _drop_biases(engine: object) -> None:
    """Weights may be mapped from their file, so biases are left out, not written over."""
    for module in engine.model.modules():  # type: ignore[attr-defined]
        for name in ("bias", "bias_O"):
            if getattr(module, name, None) is not None:
                setattr(module, name, None)
