"""Known answers: what a foreign engine must score before it is believed.

A few sequences of ids and their scores by the native engine in float32 on a CPU, together with
what engines with known faults would say. They are computed once for each model and kept in the
user's cache folder. Knows no engine but the native one, and nothing of servers.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import orjson
from pydantic import BaseModel, FiniteFloat, NonNegativeInt

from polar_ray.config import NativeEngineConfig
from polar_ray.data.storage import place, write_whole
from polar_ray.encoding import load_tokenizer
from polar_ray.engine.diagnosis import diagnose, known_faults
from polar_ray.engine.protocol import Scores
from polar_ray.engine.questions import alone, altered, random_ids
from polar_ray.errors import ConfigError
from polar_ray.json_object import parse, read_object
from polar_ray.model import ModelConfig, load_config
from polar_ray.planning import Ids

logger = logging.getLogger(__name__)

EDITION = "2"
"""Of the questions and of the file that keeps them: another one makes old files unknown."""

LENGTHS = (1, 2, 3, 7, 16, 33, 64, 129, 257, 600)
"""Tokens of the questions. One needs no rotary table; the long ones show one that is slightly
wrong, and a shorter window."""

LONGEST_SCALED = 2048
"""Dynamic RoPE shows beyond the model's own positions; where they are more than this, records of
such a length are too dear to ask on a CPU, and only shorter ones are tried."""

INTERNLM2_BOS = 1
"""Where a checkpoint has no tokenizer that loads here."""

FILE_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """Questions, and what is true of them."""

    ids: list[Ids]
    scores: Scores
    """float32 [questions]"""

    altered: dict[str, Scores]
    """What engines with known faults say; see `diagnosis.known_faults`."""

    def check(self, found: Scores, tolerance: float, *, again: Scores | None = None) -> None:
        """Raises `ConfigError`, which names the fault, unless `found` are the scores within
        `tolerance`. `again`: what was said when the same was asked a second time."""
        if found.shape != self.scores.shape:
            raise ConfigError(f"scores of shape {found.shape} for {len(self.scores)} sequences")
        faults = known_faults(self.scores, self.altered)
        lengths = [len(row) for row in self.ids]
        problem = diagnose(found, self.scores, faults, lengths, tolerance=tolerance, again=again)
        if problem is not None:
            raise ConfigError(problem)


def known_answers(model_dir: Path, cache_dir: Path | None = None) -> KnownAnswers:
    """Of the checkpoint in `model_dir`; computed if the cache does not have them. Raises
    `ConfigError` where the native engine cannot load or score it."""
    from polar_ray.model.weights import digest

    folder = user_cache() if cache_dir is None else cache_dir
    path = folder / f"{digest(model_dir, 'float32', f'known answers {EDITION}')}.json"
    if (kept := _read(path)) is not None:
        return kept
    answers = compute(model_dir)
    _write(path, answers)
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
    logger.info("computing known answers of %s in float32 on the CPU, once", model_dir)
    engine = NativeEngine(NativeEngineConfig(device="cpu", dtype="float32"), model_dir)
    try:
        score = alone(engine)
        truth = score(ids)
        if not np.isfinite(truth).all():
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
    return KnownAnswers(ids, truth, others)


def questions(shape: ModelConfig, bos: int) -> list[Ids]:
    """Every second one begins as records do, with BOS."""
    lengths = [length for length in LENGTHS if shape.window is None or length <= shape.window]
    if shape.scaled_above is not None and shape.scaled_above <= LONGEST_SCALED:
        lengths.append(shape.scaled_above + shape.scaled_above // 2)
    ids = random_ids(shape, lengths)
    for row in ids[1::2]:
        if len(row) > 1:
            row[0] = bos
    return ids


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


class _Kept(BaseModel):
    """A file of known answers."""

    ids: list[list[NonNegativeInt]]
    scores: list[FiniteFloat]
    altered: dict[str, list[FiniteFloat]]
    seal: str
    """sha256 of all else: a file that lost a byte must not refuse a sound server."""

    def sealed(self) -> str:
        """What `seal` must be."""
        content = self.model_dump(exclude={"seal"})
        return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _read(path: Path) -> KnownAnswers | None:
    if not path.is_file():
        return None
    try:
        kept = parse(_Kept, read_object(path, FILE_BYTES), path)
    except ConfigError as error:
        logger.warning("known answers are computed anew: %s", error)
        return None
    if kept.seal != kept.sealed():
        logger.warning("known answers are computed anew: %s is damaged", path)
        return None
    return KnownAnswers(
        [np.array(row, dtype=np.int32) for row in kept.ids],
        np.array(kept.scores, dtype=np.float32),
        {name: np.array(row, dtype=np.float32) for name, row in kept.altered.items()},
    )


def _write(path: Path, answers: KnownAnswers) -> None:
    """Appears whole or not at all. Without a place to keep it, it is computed the next time."""
    kept = _Kept(
        ids=[row.tolist() for row in answers.ids],
        scores=answers.scores.tolist(),
        altered={name: row.tolist() for name, row in answers.altered.items()},
        seal="",
    )
    data = orjson.dumps({**kept.model_dump(exclude={"seal"}), "seal": kept.sealed()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place(str(path.parent)), path.name, data)
    except OSError as error:
        logger.warning("known answers cannot be kept in %s: %s", path.parent, error)
