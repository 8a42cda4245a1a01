"""Router: takes calls in, and gives their rows to `pool.router.dispatcher`. A Ray Serve deployment.

The pool's ingress: RL workers call `score` through the app's handle, everybody else over HTTP.
Never reads text and never imports torch; how to cut and merge is decided in `planning.shard`, who
gets what in `pool.router.placement`.
"""

import asyncio
import gc
import logging
import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from polar_ray.call_options import check_priority, check_timeout
from polar_ray.config import PoolConfig
from polar_ray.errors import DeadlineExceeded, PolarRayError, PoolError
from polar_ray.planning.shard import shard_table
from polar_ray.pool.autoscaling import Bell
from polar_ray.pool.http.auth import Tokens
from polar_ray.pool.http.bodies import Admit, Read
from polar_ray.pool.http.port import check_alone
from polar_ray.pool.http.routes import Scoring, build_http
from polar_ray.pool.ray_internals import http_address
from polar_ray.pool.replica.away import without_reason
from polar_ray.pool.router import running
from polar_ray.pool.router.admission import Admission
from polar_ray.pool.router.dispatcher import Dispatcher
from polar_ray.pool.router.reasons import State, waiting_reason
from polar_ray.pool.router.replicas import ReplicaHandle
from polar_ray.pool.settings import check_binding, check_environment, log_plainly
from polar_ray.records import Batch, Records, to_batch
from polar_ray.scores import empty_scores, with_row_errors
from polar_ray.sizes import SMALL_ROWS
from polar_ray.stream import encode_arrow, read_arrow

logger = logging.getLogger(__name__)

READY_TIMEOUT_S = 5.0
ASK_TIMEOUT_S = 1.0
TICK_S = 0.5

DELETED_S = 5.0
"""How long the replicas of a deleted pool may go on with what they hold."""

SHARDS_PER_REPLICA = 2
"""A batch is divided into at most this many shards for each replica: few and large."""


def build_ingress() -> Any:
    """The HTTP app of a router deployment."""

    # Runs on the replica. The router is looked up by request: it does not exist yet here.
    def router() -> Scoring:
        scoring: Scoring = serve.get_replica_context().servable_object
        return scoring

    return build_http(router)


class Router:
    """Holds handles and deadlines. One score per record, in order, or an error by the deadline."""

    def __init__(self, config: PoolConfig, replicas: DeploymentHandle) -> None:
        check_environment(os.environ)
        logging.getLogger("ray.serve").addFilter(log_plainly)
        self.config = config
        self.admission = Admission(config.admission)
        self._way = way = ReplicaHandle(replicas)
        self._dispatcher = Dispatcher(way.send, way.ask, way.reserve)
        # A call for no replica in particular waits at Serve until there is any.
        self._bell = Bell(lambda: way.ask(""))
        self._pool = replicas.app_name
        path = config.http.token_file
        self.tokens = Tokens(Path(path)) if path is not None else None
        if (listening := _listening()) is not None:
            check_binding(listening[0], has_tokens=path is not None)
            check_alone(*listening)
            # What is loaded by now stays: full collections, which large JSON bodies cause and in
            # which nothing else runs, need not visit its 150 000 objects.
            gc.freeze()
        self._able_at = time.monotonic()
        self._ticking: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def score(
        self, records: Records, timeout_s: float | None = None, priority: str = "train"
    ) -> pa.Table:
        """The result table of a list of records or an Arrow table (a reference to either is
        resolved by Ray on the way here).

        Raises `RecordError` if this is no batch, no deadline or no priority (`train`, `eval`,
        `offline`), `Overloaded` if the pool is full, `DeadlineExceeded` after `timeout_s`
        (default: the pool's).
        """
        return await self.score_read(partial(_read, records), timeout_s, priority)

    async def score_stream(
        self, stream: bytes, timeout_s: float | None = None, priority: str = "train"
    ) -> bytes:
        """`score` of a small table from this project's client, which sends it as a stream and gets
        the result as one."""
        return encode_arrow(await self.score(read_arrow(stream), timeout_s, priority))

    async def score_read(
        self, read: Read, timeout_s: float | None = None, priority: str = "train"
    ) -> pa.Table:
        """`score` of what `read` gets, once the call is admitted; its deadline begins before."""
        rank = check_priority(priority)
        timeout_s = self.config.timeout_s if timeout_s is None else check_timeout(timeout_s)
        self._begin()
        try:
            return await asyncio.wait_for(self._score(read, timeout_s, rank), timeout_s)
        except Exception as error:
            own = self._translate(error, timeout_s)
            raise own from (None if own is error else error)

    async def _score(self, read: Read, timeout_s: float, rank: int) -> pa.Table:
        deadline = time.monotonic() + timeout_s
        with self.admission.call(rank) as admit:
            batch = await read(admit)
            table = batch.table
            if table.num_rows == 0:
                if self.config.least_replicas == 0:
                    await self._until_served()  # for this call, too, a replica starts
                return empty_scores(await self._served())
            ids = table["id"] if "id" in table.column_names else None
            if ids is not None:
                table = table.drop_columns(["id"])
            divide = partial(
                shard_table,
                table,
                max_shards=SHARDS_PER_REPLICA
                * max(len(self._dispatcher.members), self.config.most_replicas),
                min_cost=self.config.min_shard_bytes,
            )
            few = table.num_rows <= SMALL_ROWS
            shards = divide() if few else await asyncio.to_thread(divide)
            result = await self._dispatcher.score(table, shards, rank=rank, deadline=deadline)
        if ids is not None:
            result = result.add_column(0, "id", ids)
        return with_row_errors(result, batch.errors)

    async def provenance(self) -> dict[str, str]:
        """What one of the replicas says that it scores with; raises `PoolError` while there is
        none. It is asked: a router hears of other weights by the calls that they have scored."""
        known = await self._served()
        able = [member.name for member in self._dispatcher.members.values() if member.available]
        now = None
        with suppress(Exception):  # whatever is wrong with it, its heartbeats say so
            now = await asyncio.wait_for(self._way.ask(able[0]), READY_TIMEOUT_S) if able else None
        return without_reason(now or known)[0]

    async def ready(self) -> None:
        """Returns once there is a replica that answers, or none because there is nothing to do;
        raises `PoolError` if none does in time."""
        if not (self._at_zero and self.admission.calls == 0):
            self._begin()
            await self._dispatcher.ask_available(ASK_TIMEOUT_S)
            await self._served()

    @property
    def _at_zero(self) -> bool:
        """No replica runs, which is as it should be while there is nothing to do."""
        return self.config.least_replicas == 0 and not self._dispatcher.members

    async def _served(self) -> dict[str, str]:
        """What was scored with last, once there is a replica."""
        self._begin()
        try:
            await asyncio.wait_for(self._until_served(), READY_TIMEOUT_S)
        except (TimeoutError, asyncio.TimeoutError):
            raise PoolError(f"not ready: {waiting_reason(self._state())}") from None
        return dict(self._dispatcher.served or {})

    async def _until_served(self) -> None:
        while not self._able:
            self._changed.clear()
            await self._changed.wait()

    async def why_waiting(self) -> str:
        """What calls wait for at the moment, as a sentence."""
        self._begin()
        return waiting_reason(self._state())

    def _state(self, calls: int = 0) -> State:
        """How the pool stands, with so many calls beside those that are admitted."""
        replicas = self._dispatcher.members.values()
        return State(
            replicas=len(replicas),
            loading=sum(not (m.serving or m.unresponsive or m.away) for m in replicas),
            unresponsive=sum(m.unresponsive for m in replicas),
            away=sum(bool(m.away) and not m.unresponsive for m in replicas),
            missing=next((m.away for m in replicas if m.away), ""),
            calls=self.admission.calls + calls,
            for_s=time.monotonic() - self._able_at,
            to_zero=self._at_zero,
        )

    @property
    def _able(self) -> bool:
        """Whether any replica can work."""
        return any(member.available for member in self._dispatcher.members.values())

    async def check_health(self) -> None:
        """The event loop turns; Serve asks."""
        self._begin()

    async def stats(self) -> dict[str, float]:
        """Counters and the present load, for metrics and benchmarks."""
        return {
            **self._dispatcher.counters,
            **self._dispatcher.held,
            "replicas": len(self._dispatcher.members),
            "calls": self.admission.calls,
            "held_bytes": self.admission.size_bytes,
            "refused": self.admission.refused,
            "cpu_s": time.process_time(),
        }

    def _begin(self) -> None:
        """Ties this object to the event loop that it runs in, once."""
        if self._ticking is None:
            loop = asyncio.get_running_loop()
            self._ticking = loop.create_task(self._tick())
            running.watch(
                self._pool, lambda found: loop.call_soon_threadsafe(self._set_members, found)
            )

    def _set_members(self, replicas: running.Replicas) -> None:
        self._dispatcher.set_members(replicas)
        self._changed.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._dispatcher.tick()
            waits = self.admission.calls > 0
            if self._able or (self._at_zero and not waits):
                self._able_at = time.monotonic()
            if self.config.max_replicas is not None:
                self._way.queued_bytes = self._dispatcher.queued_bytes
                self._bell.set(waits and not self._dispatcher.members)
            self._changed.set()
            if waits and not self._dispatcher.members and self._asking is None:
                self._asking = asyncio.create_task(self._ask_whether_deleted())

    async def _ask_whether_deleted(self) -> None:
        """Ends the calls for which no replica will come. Where replicas are only being replaced, or
        the routers are, Serve has another word for the pool's state, and its calls go on."""
        try:
            if await asyncio.to_thread(_is_deleted, self._pool):
                reason = f"pool {self._pool!r} was deleted while this call waited"
                self._dispatcher.give_up(reason)
                await asyncio.sleep(DELETED_S)
                self._dispatcher.give_up(reason, held=True)
        except (RayError, RayServeException) as error:  # the controller is away; the next tick asks
            logger.info("the state of pool %r is not known: %s", self._pool, error)
        finally:
            self._asking = None

    def _translate(self, error: Exception, timeout_s: float) -> PolarRayError:
        """What ended a call, as this project's own error."""
        if isinstance(error, PolarRayError):
            return error
        if isinstance(error, TimeoutError | asyncio.TimeoutError):
            state = self._state(calls=1)  # the one that ends here
            advice = "; raise timeout_s, send smaller batches or add replicas" * (state.able > 0)
            late = f"no answer within {timeout_s:g} s"
            return DeadlineExceeded(f"{late}: {waiting_reason(state)}{advice}")
        return PoolError(f"{type(error).__name__}: {error}")


def _is_deleted(pool: str) -> bool:
    """Whether Serve is about to delete an application."""
    if not ray.is_initialized():  # Serve would start a cluster to ask
        return False
    app = serve.status().applications.get(pool)
    return app is not None and app.status == ApplicationStatus.DELETING


def _listening() -> tuple[str, int] | None:
    """Host and port where Serve's HTTP proxies listen; None outside Serve."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return None
    return http_address()


async def _read(records: Records, admit: Admit) -> Batch:
    small = isinstance(records, list | pa.Table) and len(records) <= SMALL_ROWS
    batch = to_batch(records) if small else await asyncio.to_thread(to_batch, records)
    admit(batch.table.nbytes)
    return batch
