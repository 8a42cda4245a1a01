"""The way from the router to a pool's replicas: a Serve handle and the object store."""

import asyncio
import uuid
from contextvars import Context
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from polar_ray.client.handle import cause
from polar_ray.errors import EngineClosed, PolarRayError, ServersAway
from polar_ray.pool.autoscaling import Queued
from polar_ray.pool.ray_internals import by_reference
from polar_ray.pool.replica.reservation import NotReserved
from polar_ray.pool.router.call import Served
from polar_ray.pool.router.outcome import Died, Refused, Unreachable
from polar_ray.pool.router.work import Attempt
from polar_ray.sizes import SMALL_BYTES
from polar_ray.stream import encode_arrow, read_arrow


class ReplicaHandle:
    """Calls the replica that is named, which `request_router` knows by the call's session; raises
    the outcomes of `router.outcome`."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        self._replicas = by_reference(replicas)
        self._id = uuid.uuid4().hex
        """This router, for a replica that is reserved for its trial."""

        self.queued_bytes: int | None = None
        """Work that waits here, for replicas to report; None where nobody asks."""

    @property
    def _queued(self) -> Queued | None:
        return None if self.queued_bytes is None else (self._id, self.queued_bytes)

    async def send(self, attempt: Attempt) -> pa.Table:
        """See `outcome.Send`."""
        if attempt.cost > SMALL_BYTES:
            table = await asyncio.to_thread(attempt.request)
        else:
            table = attempt.request()
        if table.nbytes > SMALL_BYTES:
            shard: bytes | list[ray.ObjectRef] = [await asyncio.to_thread(ray.put, table)]
        else:
            shard = encode_arrow(table)
        result = await self._call(
            attempt.member.name,
            "score",
            shard,
            rank=attempt.parcel.urgency[0],
            timeout_s=attempt.timeout_s,
            trial_of=self._id if attempt.trial else None,
            cost=attempt.cost,
            queued=self._queued,
        )
        return read_arrow(result)

    async def reserve(self, replica: str) -> None:
        """See `outcome.Reserve`."""
        await self._call(replica, "reserve", holder=self._id)

    async def ask(self, replica: str) -> Served | None:
        """See `health.Ask`."""
        served: Served | None = await self._call(replica, "heartbeat", queued=self._queued)
        return served

    async def _call(self, replica: str, method: str, *arguments: Any, **options: Any) -> Any:
        handle = self._replicas.options(method_name=method, session_id=replica)
        # Several calls travel in it, so it runs in the context of none of them.
        response = Context().run(handle.remote, *arguments, **options)
        try:
            return await response
        except asyncio.CancelledError:
            # Serve goes on with work that nobody awaits any more, unless it is told.
            response.cancel()
            raise
        except Exception as error:
            raise outcome(error) from error


def outcome(error: Exception) -> Exception:
    """What became of a parcel, in the words of `router.outcome`; other errors are a replica's."""
    error = cause(error)
    if isinstance(error, NotReserved | ServersAway | EngineClosed):
        # The work is as good as never taken.
        return Refused(str(error))
    if isinstance(error, PolarRayError):
        return error
    if isinstance(error, ReplicaUnavailableError | DeploymentUnavailableError):
        return Refused(str(error))
    if isinstance(error, ActorDiedError):
        return Died(str(error))
    if isinstance(error, ActorUnavailableError | BackPressureError | RayServeException | RayError):
        return Unreachable(str(error))
    return error
