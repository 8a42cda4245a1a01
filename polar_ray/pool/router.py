"""Router: cuts a batch into shards, sends them to replicas, merges what comes back.

The pool's ingress: RL workers call `score` through the app's handle, everybody else over HTTP.
Never reads text and never imports torch; how to cut and merge is decided in `planning.shard`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import ray
from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from polar_ray.config import PoolConfig, check_timeout
from polar_ray.errors import DeadlineExceeded, Overloaded, PolarRayError, PoolError, ReplicaLost
from polar_ray.planning.shard import Rows, merge, row_costs, row_groups, shard
from polar_ray.pool.http import build_http
from polar_ray.records import check_scores, empty_scores, to_batch, with_row_errors

READY_TIMEOUT_S = 5.0


def build_ingress() -> Any:
    """The HTTP app of a router deployment."""

    # Runs on the replica. The router is looked up by request: it does not exist yet here.
    def router() -> Any:
        return serve.get_replica_context().servable_object

    return build_http(router)


class Router:
    """Holds handles and deadlines. One score per record, in order, or an error by the deadline."""

    def __init__(self, config: PoolConfig, replicas: DeploymentHandle) -> None:
        self.config = config
        # By reference whatever Serve's defaults: shards travel through the object store.
        self._replicas = replicas.options(_by_reference=True)
        self._provenance: dict[str, str] | None = None

    async def score(self, records: Any, timeout_s: float | None = None) -> pa.Table:
        """The result table of a list of records or an Arrow table (a reference to either is
        resolved by Ray on the way here).

        Raises `RecordError` if this is no batch or no deadline, `DeadlineExceeded` after
        `timeout_s` (default: the pool's), `ReplicaLost` if a replica died holding a part of it.
        """
        timeout_s = self.config.timeout_s if timeout_s is None else check_timeout(timeout_s)
        try:
            return await asyncio.wait_for(self._score(records), timeout_s)
        except Exception as error:
            own = _translate(error, timeout_s)
            raise own from (None if own is error else error)

    async def _score(self, records: Any) -> pa.Table:
        batch = await asyncio.to_thread(to_batch, records)
        if batch.table.num_rows == 0:
            return empty_scores(await self.provenance())
        rows, refs = await asyncio.to_thread(self._cut, batch.table)
        tables = await self._send(rows, refs)
        return with_row_errors(merge(rows, tables), batch.errors)

    async def provenance(self) -> dict[str, str]:
        """What the replicas score with; raises `PoolError` while none answers."""
        if self._provenance is None:
            await self.ready()
        assert self._provenance is not None
        return self._provenance

    async def ready(self) -> None:
        """Returns once a replica has answered; raises `PoolError` if none does in time."""
        response = self._replicas.info.remote()
        try:
            self._provenance = await asyncio.wait_for(response, READY_TIMEOUT_S)
        except Exception as error:
            with suppress(Exception):
                response.cancel()
            raise _translate(error, READY_TIMEOUT_S) from None

    def _cut(self, table: pa.Table) -> tuple[list[Rows], list[ray.ObjectRef]]:
        rows = shard(
            row_costs(table),
            row_groups(table),
            max_shards=self.config.num_replicas * self.config.shards_per_replica,
            min_cost=self.config.min_shard_bytes,
        )
        return rows, [ray.put(table.take(pa.array(taken)).combine_chunks()) for taken in rows]

    async def _send(self, rows: Sequence[Rows], refs: Sequence[ray.ObjectRef]) -> list[pa.Table]:
        """The result table of each shard."""
        responses: list[DeploymentResponse] = []
        try:
            responses.extend(self._replicas.score.remote([ref]) for ref in refs)
            tables = await asyncio.gather(*responses)
            return [
                check_scores(table, len(taken)) for taken, table in zip(rows, tables, strict=True)
            ]
        except BaseException:
            # Serve goes on with work that nobody awaits any more, unless it is told.
            for response in responses:
                # Serve raises what the call failed with again, if it failed on its way.
                with suppress(Exception):
                    response.cancel()
            raise


def _translate(error: Exception, timeout_s: float) -> PolarRayError:
    """Ray's and asyncio's errors as this project's own."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    if isinstance(error, PolarRayError):
        return error
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return DeadlineExceeded(
            f"no answer from the replicas within {round(timeout_s, 2):g} s; raise timeout_s, send "
            "smaller batches or add replicas"
        )
    if isinstance(error, DeploymentUnavailableError):
        return PoolError("no replica of this pool starts; `serve status` says why")
    if isinstance(error, ActorDiedError | ActorUnavailableError):
        return ReplicaLost(f"a replica died while it held this work; send it again ({error})")
    if isinstance(error, BackPressureError):
        return Overloaded("the pool's queue is full")
    if isinstance(error, RayServeException | RayError):
        return ReplicaLost(f"the work was lost within the cluster; send it again ({error})")
    return PoolError(f"{type(error).__name__}: {error}")
