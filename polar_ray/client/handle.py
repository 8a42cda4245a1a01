"""The way to a pool from within its Ray cluster: a Serve handle and the object store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from polar_ray.call_options import Priority
from polar_ray.client.coalesce import GRACE_S
from polar_ray.client.forks import remake_in_children
from polar_ray.errors import (
    DeadlineExceeded,
    Overloaded,
    PolarRayError,
    PoolError,
    ReplicaLost,
)
from polar_ray.sizes import SMALL_BYTES
from polar_ray.stream import encode_arrow, read_arrow

ROUTER = "Router"
"""The deployment that callers talk to."""

ASK_TIMEOUT_S = 8.0
"""A router that has not said by then what calls wait for is away or busy."""


class _RayHere:
    """Whether this process can use Ray: a child that forked from one that does can not."""

    lost = False

    def after_fork(self) -> None:
        """Ray's threads are not there; calls would wait for ever."""
        self.lost = self.lost or ray.is_initialized()

    def check(self) -> None:
        """Raises a `PoolError` in such a child."""
        if self.lost:
            raise PoolError(
                "this process forked from one that uses Ray, which does not come along; start it "
                'with the "spawn" method, or use connect(address=...)'
            )


_ray_here = _RayHere()
remake_in_children(_ray_here)


class HandleTransport:
    """Calls the router of one Serve application. The handle is made once and kept."""

    def __init__(self, app_name: str) -> None:
        self._app_name = app_name
        _ray_here.check()
        if not ray.is_initialized():
            # Left to itself, Serve would start a cluster here to look for the application in it.
            try:
                ray.init("auto", namespace="serve", log_to_driver=False)
            except ConnectionError as error:
                raise PoolError(
                    f"no Ray cluster to look for {app_name!r} in ({error}); call ray.init(address) "
                    "first, or use connect(address=...)"
                ) from None
        try:
            handle = _find(app_name)
            self._score, self._score_stream = handle.score, handle.score_stream
            self._why_waiting = handle.why_waiting
        except (RayServeException, RayError, RuntimeError) as error:
            raise PoolError(
                f"no Serve application {app_name!r} in this Ray cluster: {str(error).rstrip('.')}. "
                f"Start one with `serve run --name {app_name} polar_ray:app`"
            ) from None

    def __repr__(self) -> str:
        return f"app_name={self._app_name!r}"

    def carries(self, records: object) -> bool:
        """References are resolved on their way to the router; the text never comes here."""
        return isinstance(records, ray.ObjectRef)

    def send(self, batch: object, timeout_s: float, priority: Priority) -> pa.Table:
        """The result table of a batch or of a reference to one."""
        if _in_event_loop():
            raise PoolError("score would block this event loop; await score_async instead")
        started = time.monotonic()
        with self._call(batch, timeout_s, priority) as response:
            try:
                return _table(response.result(timeout_s=timeout_s + GRACE_S))
            except Exception as error:
                raise self._translate(error, time.monotonic() - started) from None

    async def send_async(self, batch: object, timeout_s: float, priority: Priority) -> pa.Table:
        """`send` for an event loop."""
        started = time.monotonic()
        with self._call(batch, timeout_s, priority) as response:
            try:
                return _table(await asyncio.wait_for(response, timeout_s + GRACE_S))
            except Exception as error:
                raise self._translate(error, time.monotonic() - started) from None

    def why_waiting(self) -> str:
        """What the router says of its pool, or that it says nothing."""
        try:
            _ray_here.check()
            return str(self._why_waiting.remote().result(timeout_s=ASK_TIMEOUT_S))
        except Exception as error:
            return f"the router of pool {self._app_name!r} does not answer ({cause(error)!s:.200})"

    def close(self) -> None:
        """A handle holds nothing that needs closing."""

    @contextmanager
    def _call(
        self, batch: object, timeout_s: float, priority: Priority
    ) -> Iterator[DeploymentResponse]:
        """One call of the router, which is told to stop if it is left by an exception."""
        _ray_here.check()
        score, sent = self._score, batch
        if isinstance(batch, pa.Table) and batch.nbytes <= SMALL_BYTES:
            # Ray takes milliseconds to carry a table there and another back.
            score, sent = self._score_stream, encode_arrow(batch)
        try:
            response = score.remote(sent, timeout_s=timeout_s, priority=priority)
        except Exception as error:
            raise self._translate(error, 0.0) from None
        try:
            yield response
        except BaseException:
            # Serve raises what the call failed with again, if it failed on its way.
            with suppress(Exception):
                response.cancel()
            raise

    def _translate(self, raised: Exception, waited_s: float) -> Exception:
        """One of this project's errors for what Ray and Serve raise. What the caller's own signal
        handler raises while it waits is returned as it is."""
        error = cause(raised)
        if isinstance(error, PolarRayError):
            return error
        if isinstance(error, TimeoutError | asyncio.TimeoutError):
            return DeadlineExceeded(
                f"pool {self._app_name!r} did not answer within {waited_s:.1f} s"
            )
        if isinstance(error, DeploymentUnavailableError):
            return PoolError(f"pool {self._app_name!r} does not run any more ({error})")
        if isinstance(error, BackPressureError):
            return Overloaded(f"pool {self._app_name!r} is full")
        if isinstance(error, RayServeException | RayError):
            return ReplicaLost(f"pool {self._app_name!r} lost this call; send it again ({error})")
        if isinstance(raised, RayTaskError | RuntimeError):
            return PoolError(f"{type(error).__name__}: {error}")
        return error


def _table(answer: pa.Table | bytes) -> pa.Table:
    return read_arrow(answer) if isinstance(answer, bytes) else answer


def _find(app_name: str) -> DeploymentHandle:
    """The pool's router. While an update is refused, or is being prepared, Serve does not know what
    the application begins with, though all of it runs."""
    try:
        return serve.get_app_handle(app_name)
    except RayServeException:
        with suppress(KeyError):  # there is none of this name
            return serve.get_deployment_handle(ROUTER, app_name)
        raise


def cause(error: Exception) -> Exception:
    """What was raised in another process, without Ray's traceback around it."""
    inner = error.cause if isinstance(error, RayTaskError) else None
    return inner if isinstance(inner, Exception) else error


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
