"""An engine without a network: its scores are a pure function of a record's token ids and of the
model that it stands in for, by name.

For tests, and for measuring the pool alone. Wants a checkpoint directory for its config only.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import numpy as np

from polar_ray.config import StubEngineConfig
from polar_ray.engine.protocol import Done, ModelInfo, Pending
from polar_ray.errors import DeviceLost
from polar_ray.hub import model_name
from polar_ray.model.config import load_config
from polar_ray.planning import Pack, Span

MAX_TOKENS = 16384


class StubEngine:
    """Scores between -12 and 1, as POLAR's are, from a hash of the ids."""

    name = "stub"

    def __init__(self, config: StubEngineConfig, model_dir: Path) -> None:
        shape = load_config(model_dir)
        self._config = config
        self._packs = 0
        self._lost = False
        self.info = ModelInfo(
            name=f"stub of {model_name(model_dir)}",
            digest=f"stub {config.salt} of {model_name(model_dir)}",
            reward_id=shape.reward_token_id,
            window=shape.window,
            scaled_above=shape.scaled_above,
            vocab_size=shape.vocab_size,
            dtype="float32",
            max_tokens=MAX_TOKENS,
        )

    def submit(self, pack: Pack) -> Pending:
        """One hash for each record."""
        if self._config.seconds_per_token:
            time.sleep(self._config.seconds_per_token * pack.num_tokens)
        span_at = {span.stop - 1: span for span in pack.spans}
        records = [_ids(pack, span_at[end]) for end in pack.ends.tolist()]
        if _contains(records, self._config.fatal_token):
            os._exit(1)
        if _contains(records, self._config.hanging_token):
            threading.Event().wait()
        if _contains(records, failing := self._config.failing_token):
            raise RuntimeError(f"a pack of {pack.num_tokens} tokens holds token {failing}")
        self._lost = self._lost or _contains(records, self._config.lost_device_token)
        if self._lost:
            raise DeviceLost("the stub's device is lost, and this process with it")
        self._packs += 1
        scores = [stub_score(ids, self.info.digest) for ids in records]
        return Done(np.array(scores, dtype=np.float32))

    @property
    def counters(self) -> dict[str, int]:
        """Packs scored."""
        return {"packs": self._packs}

    def close(self) -> None:
        """Nothing to let go of."""


def _contains(records: list[np.ndarray], token: int | None) -> bool:
    return token is not None and any(token in ids for ids in records)


def _ids(pack: Pack, span: Span) -> np.ndarray:
    """All tokens up to the end of a span."""
    ids = [pack.ids[span.start : span.stop]]
    while span.parent >= 0:
        span = pack.spans[span.parent]
        ids.append(pack.ids[span.start : span.stop])
    return np.concatenate(ids[::-1])


def stub_score(ids: np.ndarray, digest: str) -> float:
    """The score that the stub engine of this digest gives to one record's ids."""
    hashed = hashlib.blake2b(digest.encode(), digest_size=4)
    hashed.update(ids.astype("<i4").tobytes())
    raw = hashed.digest()
    return int.from_bytes(raw, "little") / 2**32 * 13 - 12
