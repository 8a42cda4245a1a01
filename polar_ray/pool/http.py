"""The pool's HTTP side: a FastAPI app around anything that scores like the router does.

Owns routes and what a request may bring; the bodies are read in `pool.wire`, errors become
statuses by the one table of `polar_ray.errors`. Imports no ray, so it is tested without a cluster.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar

import pyarrow as pa
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Scope
from starlette.websockets import WebSocketClose

from polar_ray.config import LONGEST_S, PRIORITIES, PoolConfig, Priority
from polar_ray.errors import (
    HTTP_STATUS,
    AuthError,
    DeadlineExceeded,
    Overloaded,
    PolarRayError,
    RecordError,
    TooLarge,
)
from polar_ray.pool import page
from polar_ray.pool.admission import Admission
from polar_ray.pool.auth import Guard, Tokens
from polar_ray.pool.wire import JSON, decode_arrow, decode_json, encode_json
from polar_ray.stream import ARROW_STREAM, CONTENT_DIGEST, check_digest, digest, encode_arrow

logger = logging.getLogger(__name__)

T = TypeVar("T")

SMALL_BYTES = 1 << 16
"""Up to here, bodies are read and written in the event loop."""


class Scoring(Protocol):
    """What the routes need of the router."""

    config: PoolConfig
    admission: Admission
    tokens: Tokens | None

    async def score(
        self, records: Any, timeout_s: float | None = None, priority: str = "train"
    ) -> pa.Table: ...
    async def provenance(self) -> dict[str, str]: ...
    async def ready(self) -> None: ...
    async def why_waiting(self) -> str: ...


def build_http(scoring: Callable[[], Scoring]) -> FastAPI:
    """The app; `scoring` is called for each request."""
    app = FastAPI(
        title="polar_ray",
        summary="Scores rollouts with a POLAR reward model.",
        description="A row is scored or says why not: never NaN, never 0.0 for a failure.",
    )
    app.add_exception_handler(PolarRayError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_no_such_route)
    app.add_exception_handler(Exception, _on_bug)
    app.add_middleware(Guard, tokens=lambda: scoring().tokens, refuse=_refuse)

    @app.post(
        "/score",
        response_model=page.ResultBody,
        responses=page.RESULT,
        openapi_extra=page.SCORE_BODY,
    )
    async def score(
        request: Request,
        timeout_s: Annotated[float | None, Query(gt=0, le=LONGEST_S, examples=[60.0])] = None,
        priority: Priority = "train",
    ) -> Response:
        """Scores a batch: JSON in and out, or an Arrow IPC stream in and out."""
        router = scoring()
        limits = router.config.http
        until = time.monotonic() + (timeout_s or router.config.timeout_s)
        with router.admission.call(PRIORITIES.index(priority)) as admit:
            body = await read_body(request, limits.max_body_bytes, _left(until), admit)
        await _run(len(body), check_digest, request.headers.get(CONTENT_DIGEST), body)
        kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if kind == ARROW_STREAM:
            # What is small may unpack to much.
            table = await asyncio.to_thread(decode_arrow, body, limits)
            result = await router.score(table, _left(until), priority)
            answer = await _run(result.nbytes, encode_arrow, result)
            headers = {CONTENT_DIGEST: digest(answer)}
            return Response(answer, media_type=ARROW_STREAM, headers=headers)
        if kind != JSON:
            raise RecordError(f"content-type {kind!r}; send {JSON} or {ARROW_STREAM}")
        records = await _run(len(body), decode_json, body, limits)
        result = await router.score(records, _left(until), priority)
        return Response(await _run(result.nbytes, encode_json, result), media_type=JSON)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """200 while the router's process is alive."""
        return {"status": "alive"}

    @app.get("/ready", responses=page.ERRORS)
    async def ready() -> dict[str, str]:
        """200 once a replica answers, 503 or 504 while none does; says what calls wait for."""
        router = scoring()
        await router.ready()
        return {"status": "ready", "waiting": await router.why_waiting()}

    @app.get("/v1/models", responses=page.ERRORS)
    async def models() -> dict[str, Any]:
        """The served model, in OpenAI's list shape, with what makes its scores."""
        served = await scoring().provenance()
        entry = {"id": served["model"], "object": "model", "owned_by": "polar_ray", **served}
        return {"object": "list", "data": [entry]}

    document = app.openapi

    def openapi() -> dict[str, Any]:
        spec = document()
        page.complete(spec, guarded=scoring().tokens is not None)
        return spec

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def read_body(
    request: Request, max_bytes: int, timeout_s: float, admit: Callable[[int], None]
) -> bytes:
    """The request's body; `TooLarge` as soon as it is known to be over the limit. `admit` is told
    of its bytes as they come."""
    if (coding := request.headers.get("content-encoding", "identity")) != "identity":
        raise RecordError(f"content-encoding {coding!r}; send the body as it is")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    try:
        return await asyncio.wait_for(_read_stream(request, max_bytes, admit), timeout_s)
    except ClientDisconnect:
        raise RecordError("the client left before it had sent its request") from None
    except (TimeoutError, asyncio.TimeoutError):
        raise DeadlineExceeded(f"the body did not arrive within {timeout_s:.3g} s") from None


async def _read_stream(request: Request, max_bytes: int, admit: Callable[[int], None]) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        admit(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


async def _run(size_bytes: int, work: Callable[..., T], *arguments: Any) -> T:
    """In a thread, where it would hold up the event loop for longer than that takes to begin."""
    if size_bytes <= SMALL_BYTES:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


def _left(until: float) -> float:
    """Seconds of the caller's deadline that are left; never none, so that the router says so."""
    return max(until - time.monotonic(), 0.001)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is over http.max_body_bytes={max_bytes}; send several batches")


async def _on_error(request: Request, error: Exception, status: int | None = None) -> JSONResponse:
    assert isinstance(error, PolarRayError)
    status = status or HTTP_STATUS[type(error)]
    if status >= 500:
        logger.warning("%s %s: %s: %s", request.method, request.url.path, status, error)
    headers = {}
    if isinstance(error, Overloaded):
        # Whole seconds are all that the header may hold.
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, AuthError):
        headers["WWW-Authenticate"] = "Bearer"
    detail = {"type": type(error).__name__, "message": str(error)}
    return JSONResponse({"error": detail}, status, headers)


async def _refuse(scope: Scope, error: AuthError) -> ASGIApp:
    if scope["type"] != "http":
        return WebSocketClose()
    return await _on_error(Request(scope), error)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
    return await _on_error(request, RecordError(problems))


async def _on_no_such_route(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    told = RecordError(f"{where}: {error.detail}; POST /score scores, /docs shows the rest")
    answer = await _on_error(request, told, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises the error again once this is sent, so the log gets its traceback.
    return await _on_error(request, PolarRayError(f"{type(error).__name__}: {error!s:.500}"))
