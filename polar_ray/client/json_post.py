"""JSON posted to another server once, within a time, and its answer or the error that it means."""

from __future__ import annotations

import math
import time
from typing import Any

import httpx
import orjson

from polar_ray.errors import (
    AuthError,
    ConfigError,
    DeadlineExceeded,
    Overloaded,
    PoolError,
    RecordError,
)


def post(url: str, content: bytes, token: str | None, seconds: float) -> Any:
    """The JSON that a server answers with. `PoolError` where another one, or the same one later,
    might answer; `RecordError` where none would."""
    headers = {"content-type": "application/json"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    until = time.monotonic() + seconds
    try:
        # No proxy, as servers of rewards are near; no connection is kept, so that forks share none.
        with (
            httpx.Client(trust_env=False, timeout=seconds) as http,
            http.stream("POST", url, content=content, headers=headers) as response,
        ):
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("the answer is too slow")
    except httpx.TimeoutException:
        raise DeadlineExceeded(f"{url} did not answer within {seconds:.3g} s") from None
    except httpx.HTTPError as error:
        raise PoolError(f"cannot reach {url}: {error!s:.200}") from None
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!r:.200} is no URL: {error}") from None
    return _answer(url, response, bytes(body))


def _answer(url: str, response: httpx.Response, body: bytes) -> Any:
    status, shown = response.status_code, body[:300].decode(errors="replace")
    if status == 429:
        raise Overloaded(
            f"{url} is full: {shown}", _seconds(response.headers.get("retry-after", ""))
        )
    if status in (401, 403):
        raise AuthError(f"{url} answered {status}: {shown}")
    if status >= 500 or status in (404, 408):
        raise PoolError(f"{url} answered {status}: {shown}")
    if status != 200:
        raise RecordError(f"{url} answered {status}: {shown}")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise PoolError(f"{url} answered with no JSON: {shown}") from None


def _seconds(header: str) -> float:
    try:
        found = float(header)
    except ValueError:  # absent, or a date
        return 1.0
    return found if math.isfinite(found) and found >= 0 else 1.0
