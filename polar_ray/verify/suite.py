"""The two suites: everything about a checkpoint, and a server against that checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from polar_ray.checkpoint import model_dir
from polar_ray.config import ScorerConfig
from polar_ray.encoding import has_tokenizer, load_tokenizer, template
from polar_ray.engine import build_engine
from polar_ray.engine.diagnosis import diagnose, known_faults
from polar_ray.engine.protocol import Scores
from polar_ray.engine.questions import alone, altered, random_ids
from polar_ray.errors import ConfigError, PolarRayError, PoolError
from polar_ray.model import load_config
from polar_ray.planning import Ids
from polar_ray.records import to_batch
from polar_ray.scorer import Scorer
from polar_ray.verify.check import Check, Failed, Skip, check
from polar_ray.verify.checkpoint import checkpoint_checks
from polar_ray.verify.parity import LENGTHS, parity_checks
from polar_ray.verify.published import beside_weights
from polar_ray.verify.samples import RECORDS, load_golden
from polar_ray.verify.served import ServedModel


def verify_model(config: ScorerConfig, golden: Path | None = None) -> Iterator[Check]:
    """All checks of the checkpoint that a config names, one by one. `golden` is a file of known
    answers; they are ids, so that a checkpoint without a tokenizer can be tried by them."""
    cases = [] if golden is None else load_golden(golden)
    folder = model_dir(config.model)
    yield from checkpoint_checks(folder)
    scorer = None
    try:
        if cases and not has_tokenizer(folder):
            engine = build_engine(config.engine, folder)
        else:
            scorer = Scorer(config)
            engine = scorer.engine
    except PolarRayError as error:
        yield Check("loads", "fail", str(error))
        return
    products = f"; matrix products: {engine.info.products}" if engine.info.products else ""
    yield Check("loads", "pass", f"{engine.name} engine, {engine.info.dtype}{products}")
    served = f"{engine.info.digest}, as /v1/models of a pool in {engine.info.dtype} says"
    yield Check("digest", "pass", served)
    proven = False
    for done in parity_checks(engine, scorer, folder, cases):
        yield done
        proven |= done.status == "pass" and done.name in ("known answers", "published examples")
    yield check("values beside weights", lambda: beside_weights(folder, proven=proven))
    engine.close()


def verify_server(config: ScorerConfig, server: ServedModel, tolerance: float) -> Iterator[Check]:
    """A running server against the native engine on the same weights."""
    asked = _Questions(config)
    yield check("scores of token ids", lambda: asked.by_ids(server, tolerance))
    yield check("as POLAR's client asks", lambda: asked.by_text(server, tolerance))
    asked.close()


class _Questions:
    """Sequences and what is true of them."""

    def __init__(self, config: ScorerConfig) -> None:
        folder = model_dir(config.model)
        self._shape = load_config(folder)
        if config.engine.type != "native":
            raise ConfigError("a server is compared with the native engine; drop engine.type")
        self._scorer: Scorer | None = None
        try:
            load_tokenizer(folder)
        except ConfigError:  # ids do without
            self._engine = build_engine(config.engine, folder)
        else:
            self._scorer = Scorer(config)
            self._engine = self._scorer.engine
        self._score = alone(self._engine)
        self._unrotated = alone(self._engine, rotate=False)

    def by_ids(self, server: ServedModel, tolerance: float) -> str:
        """Scores of ids, with vllm told to leave them as they are."""
        ids = random_ids(self._shape, LENGTHS) + self._encoded()
        return self._judge(server, ids, ids, tolerance, activation=False)

    def by_text(self, server: ServedModel, tolerance: float) -> str:
        """Scores of ready-made text and no further word, as POLAR's client sends it."""
        if self._scorer is None:
            raise Skip("the checkpoint has no tokenizer that loads here")
        texts = [template.text(**record) for record in RECORDS]
        ids = self._encoded()
        try:
            return self._judge(server, texts, ids, tolerance, activation=None)
        except Failed as error:
            if self._splits_controls(server, texts, tolerance):
                raise Failed(
                    "wrong token ids: the server's tokenizer reads control tokens as plain text; "
                    "send token ids"
                ) from None
            named = ("sigmoid", "softmax", "normalised", "BOS", "window")
            if any(word in str(error) for word in named):
                raise
            said = str(error).rstrip(".")
            raise Failed(f"{said}. If token ids are scored right, it is the tokenizer") from None

    def _splits_controls(self, server: ServedModel, texts: list[str], tolerance: float) -> bool:
        """Whether a server reads control tokens in a text as plain text."""
        split = [np.array(self._plain(text), dtype=np.int32) for text in texts]
        try:
            found = server.score(texts)
        except PoolError:
            return False
        return bool(np.abs(found - self._score(split)).max() <= tolerance)

    def _judge(
        self,
        server: ServedModel,
        asked: Sequence[Ids] | Sequence[str],
        ids: list[Ids],
        tolerance: float,
        activation: bool | None,
    ) -> str:
        truth = self._score(ids)
        lengths = [len(record) for record in ids]
        try:
            found = server.score(asked, activation=activation)
        except PoolError as error:
            # Raises itself where the server answers nothing at all.
            at = int(np.argmin(lengths))
            server.score(asked[at : at + 1], activation=activation)
            raise Failed(
                f"a shorter window: short sequences are scored, but not all of those up to "
                f"{max(lengths)} tokens. {error}"
            ) from None
        again = server.score(asked, activation=activation)
        faults = known_faults(truth, self._altered(ids))
        problem = diagnose(found, truth, faults, lengths, tolerance=tolerance, again=again)
        if problem is not None:
            raise Failed(problem)
        worst = float(np.abs(found - truth).max())
        return f"{len(ids)} sequences, largest difference {worst:.2g} (allowed {tolerance:g})"

    def _altered(self, ids: list[Ids]) -> dict[str, Scores]:
        first = self._scorer.encoder.tokenizer.bos_id if self._scorer else int(ids[0][0])
        return altered(ids, self._score, self._unrotated, bos=first)

    def _encoded(self) -> list[Ids]:
        if self._scorer is None:
            return []
        return [record.ids for record in self._scorer.encode(to_batch(RECORDS).table)]

    def _plain(self, text: str) -> list[int]:
        assert self._scorer is not None
        tokenizer = self._scorer.encoder.tokenizer
        return [tokenizer.bos_id, *tokenizer.encode(text)]

    def close(self) -> None:
        """Lets go of the model."""
        self._engine.close()
