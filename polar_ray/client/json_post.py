"""JSON posted to another server once, within a time, and its answer or the error that it means."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import orjson

from polar_ray.client.answers import AS_IT_IS, packed
from polar_ray.client.event_loop import exchanges
from polar_ray.errors import (
    AuthError,
    ConfigError,
    DeadlineExceeded,
    Overloaded,
    PoolError,
    RecordError,
)


def post(url: str, content: bytes, token: str | None, seconds: float, most_bytes: int) -> Any:
    """The JSON that a server answers with, of at most so many bytes. `PoolError` where another one,
    or the same one later, might answer; `RecordError` where none would."""
    headers = {"content-type": "application/json", **AS_IT_IS}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    exchange = asyncio.wait_for(_exchange(url, content, headers, seconds, most_bytes), seconds)
    try:
        # In an event loop a whole exchange can be given up, whatever of it drips.
        response, body = exchanges.run(exchange, seconds)
    except (httpx.TimeoutException, TimeoutError, asyncio.TimeoutError):
        raise DeadlineExceeded(f"{url} did not answer within {seconds:.3g} s") from None
    except httpx.HTTPError as error:
        raise PoolError(f"cannot reach {url}: {error!s:.200}") from None
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!r:.200} is no URL: {error}") from None
    if response.is_success and len(body) > most_bytes:
        raise PoolError(f"{url} answered with more than {most_bytes} bytes")
    return _answer(url, response, body)


async def _exchange(
    url: str, content: bytes, headers: dict[str, str], seconds: float, most_bytes: int
) -> tuple[httpx.Response, bytes]:
    body = bytearray()
    # No proxy, as servers of rewards are near; no connection is kept, so that forks share none.
    async with (
        httpx.AsyncClient(trust_env=False, timeout=seconds) as http,
        http.stream("POST", url, content=content, headers=headers) as response,
    ):
        if (coding := packed(response)) is not None:
            raise httpx.DecodingError(f"content-encoding {coding}, which was not asked for")
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > most_bytes:
                break
    return response, bytes(body)


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
