"""How calls get from callers' processes to a pool's routers, and from these to replicas.

Serve asks a replica whether it accepts a call, by a stream of two answers. Ray ends a stream only
when the caller's process has confirmed all of it, and lets the callee's event loop stand until
then: a caller that is stopped, or cut off, stops everybody whom it has called, and through them all
others. Nothing waits for the caller of a plain call, so calls are plain here; only HTTP, which is a
stream by nature, stays one.

`Shared` runs in every process with a handle of the pool and in Serve's proxies, which need not have
this project installed: Serve ships this module by value, and all that it uses is Ray's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from threading import Lock
from typing import Any, TypeVar

import ray
from ray import serve
from ray.exceptions import ActorUnavailableError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.request_router import (
    FIFOMixin,
    LocalityMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)
from ray.serve.schema import ApplicationStatus

from polar_ray.pool.ray_internals import ActorReplicaResult, ReplicaQueueLengthInfo

T = TypeVar("T")

LOOK_S = 1.0
"""A call that has waited for so long asks whether the router that has it is alive; again after each
such time."""

SILENT_LOOKS = 10
"""Looks in a row without a heartbeat, after which a router is unresponsive."""


class Plain(RunningReplica):  # type: ignore[misc]
    """A replica that is called as any actor is, and not asked first whether it accepts the call."""

    def __init__(self, replica_info: Any, calls: Callable[[ReplicaID], int | None]) -> None:
        super().__init__(replica_info)
        self._calls = calls
        """How many calls of this process it has at present."""

    def try_send_request(self, pr: PendingRequest, with_rejection: bool) -> Any:
        if not pr.metadata._by_reference or pr.metadata.is_streaming:
            return super().try_send_request(pr, with_rejection)
        return self._accept(PlainResult(self._call(pr), pr.metadata))

    def _call(self, pr: PendingRequest) -> Any:
        """What Ray gives for a call: a reference to its answer, or a stream of references."""
        stream = pr.metadata.is_streaming
        sent = super().try_send_request(pr, with_rejection=stream)
        return sent.to_object_ref_gen() if stream else sent.to_object_ref()

    def _accept(self, result: PlainResult) -> PlainResult:
        """What Serve would hear from the replica, it hears from here."""
        result.accepted = ReplicaQueueLengthInfo(True, self._calls(self.replica_id) or 1)
        return result


class PlainResult(ActorReplicaResult):  # type: ignore[misc]
    """The answer of one call."""

    accepted: ReplicaQueueLengthInfo | None = None

    def __init__(self, answer: Any, *args: Any, **named: Any) -> None:
        self._reference = answer if isinstance(answer, ray.ObjectRef) else None
        super().__init__(answer, *args, **named)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Holds the answer until `callback` has it. Ray fetches one that lies in the object store
        for it, on a thread of its own, and ends the process if nobody holds it any more: a caller
        that waited elsewhere, or was cancelled, has let go of it by then."""
        reference = self._reference

        def call(answer: Any) -> None:
            nonlocal reference
            callback(answer)
            reference = None

        super().add_done_callback(call)

    async def get_rejection_response(self) -> ReplicaQueueLengthInfo | None:
        return self.accepted or await super().get_rejection_response()


class Heartbeat:
    """Whether a process answers. Counts the looks that found no answer, not seconds: a caller that
    was stopped itself is not to take everybody else for dead."""

    def __init__(self, ask: Callable[[], Future[Any]]) -> None:
        self._ask = ask
        self._asked: Future[Any] | None = None
        self._looked_at = float("-inf")
        self._lock = Lock()
        self.missed = 0

    @property
    def silent(self) -> bool:
        return self.missed >= SILENT_LOOKS

    def look(self, now: float) -> None:
        """From any thread; those that follow within `LOOK_S` are no looks of their own."""
        with self._lock:
            if now - self._looked_at < LOOK_S:
                return
            self._looked_at = now
            if self._asked is None or self._asked.done():
                # One that is dead answers too, by an error; the calls that it has say so.
                self.missed = 0
                self._asked = self._ask()
            else:
                self.missed += 1


class Watched(Plain):
    """A router whose calls end when it does not answer any more, not at their deadline only."""

    def __init__(self, replica_info: Any, calls: Callable[[ReplicaID], int | None]) -> None:
        super().__init__(replica_info, calls)
        self.heartbeat = Heartbeat(
            lambda: self._actor_handle.get_num_ongoing_requests.remote().future()
        )

    def try_send_request(self, pr: PendingRequest, with_rejection: bool) -> Any:
        if not pr.metadata._by_reference or (pr.metadata.is_streaming and not with_rejection):
            return super().try_send_request(pr, with_rejection)
        stream = pr.metadata.is_streaming
        result = WatchedResult(self._call(pr), pr.metadata, with_rejection=stream)
        result.check = self.check
        return result if stream else self._accept(result)

    def check(self) -> None:
        """Raises `ActorUnavailableError` if the router is unresponsive."""
        self.heartbeat.look(time.monotonic())
        if self.heartbeat.silent:
            late = f"no heartbeat for {SILENT_LOOKS * LOOK_S:g} s"
            raise ActorUnavailableError(late, self.actor_id.binary())


class WatchedResult(PlainResult):
    """The answer of a call, or the news that whoever has it does not answer."""

    check: Callable[[], None]

    async def get_rejection_response(self) -> ReplicaQueueLengthInfo | None:
        return await self._unless_silent(super().get_rejection_response())

    async def get_async(self) -> Any:
        return await self._unless_silent(super().get_async())

    async def __anext__(self) -> Any:
        return await self._unless_silent(super().__anext__())

    def get(self, timeout_s: float | None) -> Any:
        until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while (left_s := until - time.monotonic()) > 0:
            if ray.wait([self.to_object_ref()], timeout=min(left_s, LOOK_S))[0]:
                break
            self.check()
        return super().get(timeout_s if timeout_s is None else max(left_s, 0.0))

    async def _unless_silent(self, answer: Awaitable[T]) -> T:
        task = asyncio.ensure_future(answer)
        try:
            while not (await asyncio.wait([task], timeout=LOOK_S))[0]:
                self.check()
            return task.result()
        finally:
            task.cancel()


class Shared(FIFOMixin, LocalityMixin, RequestRouter):  # type: ignore[misc]
    """Serve's request router of the routers: of two that answer, the one with fewer calls."""

    _asking: asyncio.Task[None] | None = None

    def create_replica_wrapper(self, replica_info: Any) -> RunningReplica:
        return Watched(replica_info, self.replica_queue_len_cache.get)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve's controller says who runs; while nobody does, calls wait here."""
        super().update_replicas(replicas)
        if not replicas and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._wait_for_routers())

    async def _wait_for_routers(self) -> None:
        """Ends the calls that wait for a router of a pool that is deleted."""
        while not self.curr_replicas:
            await asyncio.sleep(LOOK_S)
            waiting = [call for call in self._pending_requests_to_fulfill if not call.future.done()]
            if not waiting or not await asyncio.to_thread(_is_deleted, self.app_name):
                continue
            for call in waiting:
                if not call.future.done():
                    call.future.set_exception(DeploymentUnavailableError(self._deployment_id))

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        near = self.apply_locality_routing(pending_request)
        routers = [router for router in candidate_replicas if router.replica_id in near]
        answering = [router for router in routers if _answers(router)] or routers
        return [random.sample(answering, min(2, len(answering)))]


def _answers(router: Watched) -> bool:
    if router.heartbeat.missed:
        router.heartbeat.look(time.monotonic())
    return router.heartbeat.missed < 2


def _is_deleted(app_name: str) -> bool:
    """Whether Serve is about to delete an application, or has done so; no, while it cannot say."""
    try:
        app = serve.status().applications.get(app_name)
    except Exception:  # the controller is away, and may be for long; calls have their deadlines
        return False
    return app is None or app.status == ApplicationStatus.DELETING
