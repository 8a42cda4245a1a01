"""The same scores, however a checkpoint is run: in packs or alone, here or by transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from polar_ray.engine import Engine
from polar_ray.engine.protocol import Scores
from polar_ray.engine.questions import alone, random_ids
from polar_ray.hub import model_name
from polar_ray.model import ModelConfig, load_config
from polar_ray.planning import Ids, pack
from polar_ray.records import to_batch
from polar_ray.scorer import Scorer
from polar_ray.scores import BATCHING_TOLERANCE
from polar_ray.verify.check import Check, Failed, Skip, check
from polar_ray.verify.published import POLAR_7B, is_polar_7b
from polar_ray.verify.reference import LlamaReference
from polar_ray.verify.samples import RECORDS, Case

LENGTHS = [1, 2, 3, 7, 16, 33, 64, 129]
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.15, "float16": 0.05, "int8": 1.0, "fp8": 1.0}
"""Largest difference to float32 that a dtype is forgiven, on scores some ten apart."""


def parity_checks(
    engine: Engine, scorer: Scorer | None, folder: Path, cases: Sequence[Case]
) -> Iterator[Check]:
    """Of an engine that has loaded `folder`, and its scorer, if there is a tokenizer."""
    config = load_config(folder)
    ids = random_ids(config, LENGTHS)
    tolerance = TOLERANCES[engine.info.dtype]
    yield check("known answers", lambda: _known(engine, cases, tolerance))
    yield check("published examples", lambda: _published(scorer, model_name(folder), config))
    yield check("native = transformers", lambda: _transformers(engine, folder, ids))
    yield check("batch invariance", lambda: _invariance(engine, _encoded(scorer) or ids, tolerance))
    yield check("repeated", lambda: _repeated(engine, ids))


def _known(engine: Engine, cases: Sequence[Case], tolerance: float) -> str:
    if not cases:
        raise Skip('no file given; --golden FILE with {"cases": [{"input_ids", "reward"}]}')
    for number, case in enumerate(cases):
        if (largest := max(case.input_ids)) >= engine.info.vocab_size:
            raise Failed(f"case {number} has id {largest}, the model {engine.info.vocab_size} ids")
    ids = [np.array(case.input_ids, dtype=np.int32) for case in cases]
    expected = np.array([case.reward for case in cases], dtype=np.float32)
    return f"{len(cases)} cases, {_compare(alone(engine)(ids), expected, tolerance)}"


def _published(scorer: Scorer | None, name: str, config: ModelConfig) -> str:
    if not is_polar_7b(name, config):
        raise Skip("not the published POLAR-7B, or not by its name")
    if scorer is None:
        raise Skip("they are text, and there is no tokenizer here")
    table = scorer.score([example.record for example in POLAR_7B])
    found = np.array(table["score"].to_pylist(), dtype=np.float32)
    expected = np.array([example.score for example in POLAR_7B], dtype=np.float32)
    if (np.argsort(found) != np.argsort(expected)).any():
        raise Failed(f"another order than on the model card: {found} for {expected}")
    return _compare(found, expected, 0.15)


def _encoded(scorer: Scorer | None) -> list[Ids]:
    if scorer is None:
        return []
    encoded = scorer.encode(to_batch(RECORDS).table)
    return [record.ids for record in encoded if record.error is None]


def _transformers(engine: Engine, folder: Path, ids: list[Ids]) -> str:
    if engine.name != "native":
        raise Skip(f"the {engine.name} engine has no network")
    tolerance = TOLERANCES[engine.info.dtype]
    expected = LlamaReference(folder).score(ids)
    return f"{len(ids)} sequences, {_compare(alone(engine)(ids), expected, tolerance)}"


def _invariance(engine: Engine, ids: list[Ids], tolerance: float) -> str:
    """Together, alone, backwards and in small packs."""
    expected = alone(engine)(ids)
    worst = 0.0
    bound = BATCHING_TOLERANCE if engine.info.dtype == "float32" else tolerance
    for max_tokens in (64, 100_000):
        for order in (np.arange(len(ids)), np.arange(len(ids))[::-1]):
            chosen = [ids[i] for i in order]
            found = np.full(len(ids), np.nan, dtype=np.float32)
            for packed in pack(chosen, max_tokens=max_tokens, salts=engine.info.salts(chosen)):
                found[order[packed.records]] = engine.submit(packed).result()
            _compare(found, expected, bound)
            worst = max(worst, float(np.abs(found - expected).max()))
    return f"{len(ids)} records in 4 arrangements, largest difference {worst:.1g}"


def _repeated(engine: Engine, ids: list[Ids]) -> str:
    first, again = alone(engine)(ids), alone(engine)(ids)
    if not np.array_equal(first, again):
        raise Failed(f"differs by {np.abs(first - again).max():.2g} from itself")
    return "the same to the last bit"


def _compare(found: Scores, expected: Scores, tolerance: float) -> str:
    worst = float(np.abs(found - expected).max())
    if not worst <= tolerance:
        at = int(np.nanargmax(np.abs(found - expected))) if np.isfinite(worst) else 0
        raise Failed(
            f"largest difference {worst:.3g}, allowed {tolerance:g}: "
            f"{found[at]:.4f} for {expected[at]:.4f}"
        )
    return f"largest difference {worst:.1g}"
