"""What the answers of vllm, sglang's OpenAI routes and lmdeploy have in common."""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

from pydantic import BaseModel

from polar_ray.pool.http.formats.wire import Fields, Scored


class InputFields(Fields):
    """Texts under `input`."""

    input: str | list[str]
    user: str | None = None


class VllmFields(Fields):
    """What all of vllm's routes for scores take beside their texts."""

    user: str | None = None
    request_id: str | None = None
    priority: Literal[0] = 0
    use_activation: Literal[False] | None = None
    truncate_prompt_tokens: None = None
    padding: Literal["do_not_pad"] | None = None


class UsageBody(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class ListBody(BaseModel):
    """The outer part of an answer."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    usage: UsageBody


def as_list(prefix: str, scored: Scored, data: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer around its rows."""
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": scored.model,
        "data": data,
        "usage": scored.usage,
    }
