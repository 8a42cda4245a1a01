"""RemoteEngine: packs to servers, from the scorer's thread to an event loop of its own.

Weights are changed at the servers. Those then refuse to be believed until this engine is made anew
with the new checkpoint, as a pool does when its `user_config` names it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import numpy as np

from polar_ray.config import RemoteEngineConfig
from polar_ray.engine.known_answers import known_answers
from polar_ray.engine.order import Order, order_records
from polar_ray.engine.protocol import ModelInfo, Pending, Scores
from polar_ray.engine.remote.connection import Connections
from polar_ray.engine.remote.job import Job
from polar_ray.engine.remote.sender import Sender
from polar_ray.engine.remote.sharing import Request, budget, cut
from polar_ray.errors import EngineClosed, EngineError
from polar_ray.hub import model_name
from polar_ray.model import digest, load_config
from polar_ray.planning import Pack

logger = logging.getLogger(__name__)

PACK_REQUESTS = 2
"""Requests' worth of tokens in a pack, for each server: two packs are in flight at once."""

CLOSE_S = 10.0

T = TypeVar("T")


class RemoteEngine:
    """Scores with servers that run elsewhere."""

    def __init__(self, config: RemoteEngineConfig, model_dir: Path) -> None:
        """Raises `ConfigError` unless one server at least gives the known answers of `model_dir`;
        it names what is wrong with each."""
        shape = load_config(model_dir)
        self._kinds = sorted({kind for kind, _ in config.kinds_and_urls})
        self.name = f"remote-{'+'.join(self._kinds)}"
        self._config = config
        known = known_answers(model_dir)
        self._packs = 0
        self.info = ModelInfo(
            name=model_name(model_dir),
            digest=digest(model_dir, config.dtype, self.name),
            reward_id=shape.reward_token_id,
            window=shape.window,
            scaled_above=shape.scaled_above,
            vocab_size=shape.vocab_size,
            dtype=config.dtype,
            max_tokens=PACK_REQUESTS * config.request_tokens * len(config.addresses),
        )
        self._sender = Sender(config, Connections(config), known)
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="servers", daemon=True)
        self._thread.start()
        try:
            self._run(self._sender.start()).result()
        except BaseException:
            self.close()
            raise
        logger.info("%s: %d servers are believed", self.name, self._sender.num_believed)

    @property
    def waits_for(self) -> str | None:
        """See `Reliant`."""
        return self._sender.waits_for

    def submit(self, pack: Pack) -> Pending:
        """Sends a pack's records; see `Engine`."""
        if len(pack.ids) and not 0 <= int(pack.ids.min()) <= int(pack.ids.max()) < (
            self.info.vocab_size
        ):
            raise EngineError("token ids beyond the vocabulary")
        if self._closed:
            raise EngineClosed("the engine was closed")
        self._packs += 1
        order = order_records(pack)
        return _Coming(self._run(self._score(order)), order)

    async def _score(self, order: Order) -> Scores:
        """float32, one for each of the order's records."""
        at_work = self._config.requests_per_address * max(1, self._sender.num_believed)
        total = sum(map(len, order.records))
        most = budget(total, at_work, self._config.request_tokens)
        requests = cut(order, most, leads="sglang" in self._kinds)
        found = await self._sender.score([_job(order, request) for request in requests])
        scores = np.full(len(order.records), np.nan, dtype=np.float32)
        for request, part in zip(requests, found, strict=True):
            scores[list(request.places)] = part
        return scores

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    @property
    def counters(self) -> dict[str, int]:
        """Packs, and what was sent for them."""
        return {"packs": self._packs, **self._sender.counts}

    def close(self) -> None:
        """Ends all requests; who waits for one gets an `EngineClosed`."""
        if self._closed:
            return
        self._closed = True
        try:
            self._run(self._sender.close()).result(CLOSE_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_S)
            if not self._thread.is_alive():
                self._loop.close()


def _job(order: Order, request: Request) -> Job:
    def records(places: Sequence[int]) -> list[Any]:
        return [order.records[at] for at in places]

    return Job(records(request.ahead), records(request.rest))


class _Coming:
    """Scores that servers are at."""

    def __init__(self, scores: Future[Scores], order: Order) -> None:
        self._scores, self._order = scores, order

    def result(self) -> Scores:
        """See `Pending`."""
        try:
            return self._scores.result()[self._order.places]
        except CancelledError:
            raise EngineClosed("the engine was closed") from None
