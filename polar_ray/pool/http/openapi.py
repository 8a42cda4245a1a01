"""The OpenAPI page: what requests and answers look like, and which answers there are.

The routes read and write bodies by hand (`json_body`, `arrow_body`); that both agree is tested with
requests made from this page. Imports no ray.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from polar_ray.errors import HTTP_STATUS, AuthError, Overloaded
from polar_ray.pool.http.auth import OPEN_PATHS
from polar_ray.pool.http.json_body import JSON
from polar_ray.stream import ARROW_STREAM

RowNumber = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]


class MessageBody(BaseModel):
    """One chat message; the role is not read."""

    role: Any = None
    content: str


class RecordBody(BaseModel):
    """One record: is `output` as good an answer to `prompt` as `reference` is?"""

    model_config = ConfigDict(extra="forbid")
    prompt: str | list[MessageBody]
    reference: str | list[MessageBody]
    output: str | list[MessageBody]
    wrapper: str | None = Field(default=None, description="sft (default) or pretrain")
    id: str | RowNumber | None = Field(
        default=None, description="given back with the row; all strings or all integers"
    )


class ScoreBody(BaseModel):
    """The JSON body of POST /score."""

    model_config = ConfigDict(extra="forbid")
    records: list[RecordBody]


class RowBody(BaseModel):
    """One result: a finite score, or an error that says why there is none."""

    score: float | None
    error: str | None
    truncated: bool
    num_tokens: int
    control_text: bool
    id: str | int | None = None


class ResultBody(BaseModel):
    """The JSON answer of POST /score: one row for each record, in order."""

    results: list[RowBody]
    provenance: dict[str, str]


class ErrorDetail(BaseModel):
    """A `polar_ray.errors` class by name, and what to do about it."""

    type: str
    message: str


class ErrorBody(BaseModel):
    """The body of every answer that is not 200."""

    error: ErrorDetail


Responses = dict[int | str, dict[str, Any]]

STREAM: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
SCORE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"$ref": "#/components/schemas/ScoreBody"}},
            ARROW_STREAM: STREAM,
        },
    }
}
HEADERS = {
    HTTP_STATUS[Overloaded]: {"Retry-After": "Seconds after which there may be room."},
    HTTP_STATUS[AuthError]: {"WWW-Authenticate": "Bearer"},
}
ERRORS: Responses = {
    status: {
        "model": ErrorBody,
        "headers": {
            name: {"description": text, "required": True, "schema": {"type": "string"}}
            for name, text in HEADERS.get(status, {}).items()
        },
    }
    for status in sorted(set(HTTP_STATUS.values()))
}
DIGEST = {
    "description": "sha-256 of an Arrow answer (RFC 9530); requests may carry one, too.",
    "schema": {"type": "string"},
}
RESULT: Responses = {
    200: {"content": {ARROW_STREAM: STREAM}, "headers": {"Content-Digest": DIGEST}},
    **ERRORS,
}
BEARER = {"bearer": {"type": "http", "scheme": "bearer"}}


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A route's JSON body, on the page."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


def complete(spec: dict[str, Any], bodies: Iterable[type[BaseModel]], *, guarded: bool) -> None:
    """Adds what FastAPI does not know by itself: what routes that read by hand are sent, and
    whether tokens are asked for."""
    for body in bodies:
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        spec["components"]["schemas"].update(schema.pop("$defs", {}), **{body.__name__: schema})
    if guarded:
        spec["components"]["securitySchemes"] = BEARER
        spec["security"] = [{name: [] for name in BEARER}]
        for path in OPEN_PATHS:
            spec["paths"][path]["get"]["security"] = []
