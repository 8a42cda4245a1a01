"""The sglang engine: packs become lists of token ids, which sglang's own process scores.

What sglang cannot take never reaches it: an empty list or an id beyond the vocabulary ends it, and
a checkpoint of another kind does, too. It is believed once it has given the known answers of its
model, at the start and after each change of its weights.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from polar_ray.config import SGLangEngineConfig
from polar_ray.engine.known_answers import known_answers
from polar_ray.engine.order import Order, order_records
from polar_ray.engine.protocol import ModelInfo, Pending, Scores
from polar_ray.engine.sglang import child
from polar_ray.engine.sglang.arguments import ROOM, environment, longest_record, server_args
from polar_ray.engine.sglang.process import ChildError, SGLangProcess
from polar_ray.engine.sglang.view import make_view
from polar_ray.errors import ConfigError, EngineError
from polar_ray.hub import model_name
from polar_ray.model import ModelConfig, digest, load_config
from polar_ray.model.weights import check_model
from polar_ray.planning import Ids, Pack, pack

logger = logging.getLogger(__name__)

MAX_TOKENS = 16384
"""Of a pack: sglang forms its own batches, so it needs only enough to choose from."""

TOLERANCES = {"float32": 1e-3}
"""How far known answers may be off: by dtype."""

COARSE_TOLERANCE = 0.25
"""The same in 16 bits; faults that are smaller than that there pass for rounding."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What sglang takes."""

    longest: int
    """Tokens of a record."""

    vocab_size: int


class SGLangEngine:
    """Scores by a process with sglang."""

    name = "sglang"

    def __init__(self, config: SGLangEngineConfig, model_dir: Path) -> None:
        check(config, model_dir)
        known_answers(model_dir)  # what cannot be checked is not started
        self._config = config
        self._shape = load_config(model_dir)
        self._process = SGLangProcess(config.python)
        self._views = count()
        self._packs = self._computed = self._cached = 0
        folder = self._process.folder
        try:
            ready = self._process.start(
                server_args(config, self._shape, self._view(model_dir)),
                environment(config, os.environ, folder),
                config.start_timeout_s,
            )
            self._dtype = str(ready["dtype"])
            self._bounds = Bounds(_longest(config, self._shape, ready), self._shape.vocab_size)
            self._believe(model_dir)
        except BaseException:
            self._process.close()
            raise
        logger.info(
            "loaded %s with sglang %s on %s in %s",
            model_dir,
            ready["version"],
            ready["device"],
            self._dtype,
        )

    def _view(self, model_dir: Path) -> Path:
        return make_view(model_dir, self._process.folder / f"model-{next(self._views)}")

    def _believe(self, model_dir: Path) -> None:
        """Takes `model_dir` for the model that sglang has, if its answers say so."""
        # Always some: neither a model nor `context_length` may be shorter than all of them.
        known = known_answers(model_dir).within(self._bounds.longest)
        self.info = ModelInfo(
            name=model_name(model_dir),
            digest=digest(model_dir, self._dtype),
            reward_id=self._shape.reward_token_id,
            window=self._bounds.longest,
            scaled_above=self._shape.scaled_above,
            vocab_size=self._shape.vocab_size,
            dtype=self._dtype,
            max_tokens=MAX_TOKENS,
        )
        tolerance = TOLERANCES.get(self._dtype, COARSE_TOLERANCE)
        # A second time, of what its cache has kept of the first.
        found, again = self._ask(known.ids), self._ask(known.ids)
        try:
            known.check(found, tolerance, again=again)
            known.check_vocabulary(self._ask(known.vocabulary.ids), tolerance)
            known.check_long(self._ask(known.long.ids), tolerance)
        except ConfigError as error:
            raise ConfigError(f"sglang scores {model_dir} wrongly: {error}") from None

    def _ask(self, ids: Sequence[Ids]) -> Scores:
        scores = np.full(len(ids), np.nan, dtype=np.float32)
        for packed in pack(ids, max_tokens=MAX_TOKENS):
            scores[packed.records] = self.submit(packed).result()
        return scores

    def take(self, config: SGLangEngineConfig, model_dir: Path) -> bool:
        """Whether it now has the weights of `model_dir` in place of its own. Where not, it is not
        to be used again."""
        if config != self._config or load_config(model_dir) != self._shape:
            return False
        check(config, model_dir)
        known_answers(model_dir)
        body = json.dumps({"model_path": str(self._view(model_dir))}).encode()
        number = self._process.send(child.UPDATE, body, config.start_timeout_s)
        try:
            self._process.receive(number, config.start_timeout_s)
        except ChildError as error:
            raise EngineError(f"sglang did not take other weights: {error}") from None
        self._believe(model_dir)
        return True

    def submit(self, pack: Pack) -> Pending:
        """Sends a pack; sglang goes on with it while the caller plans the next."""
        order = order_records(pack)
        validate(order.records, self._bounds)
        body = child.join_records([ids.tolist() for ids in order.records], order.after)
        number = self._process.send(child.SCORE, body, self._config.answer_timeout_s)
        return _Asked(self, number, order)

    def receive(self, number: int) -> Scores:
        """One float32 for each record that was sent under this number."""
        try:
            body = self._process.receive(number, self._config.answer_timeout_s)
        except ChildError as error:
            raise EngineError(f"sglang failed on a pack: {error}") from None
        # Only here, so that what a pack has cost can be told from before and after it.
        log = self._process.log
        self._computed, self._cached = log.tokens_computed, log.tokens_cached
        self._packs += 1
        return np.frombuffer(body, dtype=np.float32)

    @property
    def counters(self) -> dict[str, int]:
        """Packs, tokens computed and what sglang's cache saved, by its log up to the last
        answer."""
        return {
            "packs": self._packs,
            "tokens_computed": self._computed,
            "prefix_tokens_reused": self._cached,
        }

    def close(self) -> None:
        """Ends sglang with all its children."""
        self._process.close()


class _Asked:
    """Scores that sglang's process will send."""

    def __init__(self, engine: SGLangEngine, number: int, order: Order) -> None:
        self._engine, self._number, self._order = engine, number, order

    def result(self) -> Scores:
        """See `Pending`."""
        scores: Scores = self._engine.receive(self._number)[self._order.places]
        return scores


def check(config: SGLangEngineConfig, model_dir: Path) -> None:
    """Raises `ConfigError` for a model that sglang cannot score or that would end it, by its config
    and the headers of its weights."""
    shape = load_config(model_dir)
    if shape.bias:
        raise ConfigError(
            f"{model_dir} has biases (bias=true), which sglang's InternLM2 leaves out; its scores "
            "would be wrong. Use engine.type=native"
        )
    if shape.rope_kind == "dynamic":
        raise ConfigError(
            f"{model_dir} has dynamic RoPE, whose angles sglang takes from its longest record; its "
            "scores would be wrong. Use engine.type=native"
        )
    longest_record(config, shape)
    check_model(model_dir)


def validate(records: Sequence[Ids], bounds: Bounds) -> None:
    """Raises `EngineError` for what must not be sent: sglang does not survive most of it."""
    for ids in records:
        if not 0 < len(ids) <= bounds.longest:
            raise EngineError(f"a record of {len(ids)} tokens; sglang takes 1 to {bounds.longest}")
        if ids.min() < 0 or ids.max() >= bounds.vocab_size:
            raise EngineError(f"token ids beyond the vocabulary of {bounds.vocab_size}")


def _longest(config: SGLangEngineConfig, shape: ModelConfig, ready: dict[str, int]) -> int:
    """Tokens of a record that sglang will answer, by what it says of itself."""
    wanted = longest_record(config, shape)
    room = min(ready["max_total_tokens"] - ROOM, ready["max_input_tokens"])
    if room < wanted:
        raise ConfigError(
            f"sglang has room for records of {room} tokens, not {wanted}: lower "
            "engine.context_length, or give it more memory (engine.mem_fraction, "
            "engine.max_total_tokens)"
        )
    return wanted
