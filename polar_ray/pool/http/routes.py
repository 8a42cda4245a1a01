"""The pool's HTTP side: a FastAPI app around anything that scores like the router does.

Owns routes and what is answered; what a request brings is read in `pool.http.bodies`, errors become
statuses by the one table of `polar_ray.errors`. Imports no ray, so it is tested without a cluster.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import orjson
import pyarrow as pa
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Scope
from starlette.websockets import WebSocketClose

from polar_ray.call_options import LONGEST_S, Priority
from polar_ray.config import PoolConfig
from polar_ray.errors import (
    HTTP_STATUS,
    AuthError,
    DeadlineExceeded,
    Overloaded,
    PolarRayError,
    RecordError,
)
from polar_ray.pool.http import openapi
from polar_ray.pool.http.auth import Guard, Tokens
from polar_ray.pool.http.bodies import Read, Threads, Upload
from polar_ray.pool.http.formats import FORMATS, Format
from polar_ray.pool.http.formats.wire import Scored, batch_of, scored
from polar_ray.pool.http.json_body import JSON, encode_json
from polar_ray.pool.http.object_body import read_object
from polar_ray.records import Batch
from polar_ray.stream import ARROW_STREAM, CONTENT_DIGEST, digest, encode_arrow

logger = logging.getLogger(__name__)

PLAIN_NUMBER = re.compile(r"\+?[0-9.]+([eE][+-]?[0-9]+)?")
"""Python's numbers may have underscores, spaces around them and digits of any script, too."""


class Scoring(Protocol):
    """What the routes need of the router."""

    config: PoolConfig
    tokens: Tokens | None

    async def score_read(
        self, read: Read, timeout_s: float | None = None, priority: str = "train"
    ) -> pa.Table: ...
    async def provenance(self) -> dict[str, str]: ...
    async def ready(self) -> None: ...
    async def why_waiting(self) -> str: ...


def build_http(scoring: Callable[[], Scoring]) -> FastAPI:
    """The app; `scoring` is called for each request."""
    threads = Threads()
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
        response_model=openapi.ResultBody,
        responses=openapi.RESULT,
        openapi_extra=openapi.SCORE_BODY,
    )
    async def score(
        request: Request,
        timeout_s: Annotated[float | None, Query(gt=0, le=LONGEST_S, examples=[60.0])] = None,
        priority: Priority = "train",
    ) -> Response:
        """Scores a batch: JSON or an Arrow IPC stream in, the same out, or what `Accept` names."""
        _check_parameters(request)
        router = scoring()
        upload = Upload(request, router.config, threads)
        result = await _score(router, upload, timeout_s, priority)
        kind = accepted(request.headers.get("accept", ""), upload.kind)
        return await threads.run(result.nbytes, lambda: _answer(result, kind))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """200 while the router's process is alive."""
        return {"status": "alive"}

    @app.get("/ready", responses=openapi.ERRORS)
    async def ready() -> dict[str, str]:
        """200 once a replica answers, 503 or 504 while none does; says what calls wait for."""
        router = scoring()
        await router.ready()
        return {"status": "ready", "waiting": await router.why_waiting()}

    @app.get("/v1/models", responses=openapi.ERRORS)
    async def models() -> dict[str, Any]:
        """The served model, in OpenAI's list shape, with what makes its scores."""
        served = await scoring().provenance()
        entry = {"id": served["model"], "object": "model", "owned_by": "polar_ray", **served}
        return {"object": "list", "data": [entry]}

    for wire_format in FORMATS:
        _add_format(app, wire_format, scoring, threads)

    document = app.openapi

    def whole_document() -> dict[str, Any]:
        spec = document()
        bodies: list[type[BaseModel]] = [openapi.ScoreBody, *(f.request for f in FORMATS)]
        openapi.complete(spec, bodies, guarded=scoring().tokens is not None)
        return spec

    app.openapi = whole_document  # type: ignore[method-assign]
    return app


def _add_format(
    app: FastAPI, wire_format: Format, scoring: Callable[[], Scoring], threads: Threads
) -> None:
    """The routes of another server's format."""

    async def respond(
        request: Request,
        timeout_s: Annotated[float | None, Query(gt=0, le=LONGEST_S, examples=[60.0])] = None,
        priority: Priority = "train",
    ) -> Response:
        _check_parameters(request)
        router = scoring()
        limits, max_field_bytes = router.config.http, router.config.encoding.max_field_bytes
        answers: list[Callable[[Scored], Any]] = []

        def decode(body: bytes) -> Batch:
            question = wire_format.read(read_object(body, limits, max_field_bytes))
            answers.append(question.answer)
            return batch_of(question)

        upload = Upload(request, router.config, threads, decode)
        result = await _score(router, upload, timeout_s, priority)
        [answer] = answers
        body = await threads.run(result.nbytes, lambda: orjson.dumps(answer(scored(result))))
        return Response(body, media_type=JSON)

    for path in wire_format.paths:
        app.add_api_route(
            path,
            respond,
            methods=["POST"],
            summary=wire_format.summary,
            description=wire_format.read.__doc__ or "",
            response_model=wire_format.response,
            responses=openapi.ERRORS,
            openapi_extra=openapi.json_body(wire_format.request),
        )


async def _score(
    router: Scoring, upload: Upload, timeout_s: float | None, priority: str
) -> pa.Table:
    try:
        return await router.score_read(upload.read, timeout_s, priority)
    except DeadlineExceeded as error:
        if upload.arrived:
            raise
        seconds = timeout_s or router.config.timeout_s
        raise DeadlineExceeded(f"the body did not arrive within {seconds:.3g} s") from error


def accepted(accept: str, sent: str) -> str:
    """JSON or Arrow: what was sent, unless the header asks for the other alone."""
    wanted = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    other = ARROW_STREAM if sent == JSON else JSON
    return other if other in wanted and not wanted & {sent, "*/*", "application/*"} else sent


def _answer(result: pa.Table, kind: str) -> Response:
    if kind == JSON:
        return Response(encode_json(result), media_type=JSON)
    body = encode_arrow(result)
    return Response(body, media_type=ARROW_STREAM, headers={CONTENT_DIGEST: digest(body)})


def _check_parameters(request: Request) -> None:
    """A mistyped deadline must not be another one in silence, nor one of two."""
    known = ("timeout_s", "priority")
    if odd := [name for name in request.query_params if name not in known]:
        raise RecordError(f"no such parameter: {odd[0]!r:.80}; there are {', '.join(known)}")
    given = request.query_params
    if twice := [name for name in known if len(given.getlist(name)) > 1]:
        raise RecordError(f"the parameter {twice[0]!r} stands there more than once; send one")
    if not PLAIN_NUMBER.fullmatch(seconds := given.get("timeout_s", "1")):
        raise RecordError(f"timeout_s={seconds!r:.80} is not a plain number of seconds, as 12.5 is")


async def _on_error(request: Request, error: Exception, status: int | None = None) -> JSONResponse:
    assert isinstance(error, PolarRayError)
    status = status or HTTP_STATUS[type(error)]
    if status >= 500:
        logger.warning("%s %r: %s: %s", request.method, request.scope["path"], status, error)
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
    # Not `request.url`, which reads the header `Host`, and fails where that is nonsense.
    where = f"{request.method:.20} {request.scope['path']:.200}"
    told = RecordError(f"{where}: {error.detail}; POST /score scores, /docs shows the rest")
    answer = await _on_error(request, told, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises the error again once this is sent, so the log gets its traceback.
    return await _on_error(request, PolarRayError(f"{type(error).__name__}: {error!s:.500}"))
