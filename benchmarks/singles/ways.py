"""The ways to score one row, as trainers go them, and the same rows in batches for comparison.

Each is an async context manager that yields a call: rows in, scores out. `WAYS` has their names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from singles.workload import Row

Rows = Sequence[Row]
Call = Callable[[Rows], Awaitable[list[float]]]

TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Where it is."""

    name: str
    url: str


@asynccontextmanager
async def by_handle(pool: Pool) -> AsyncIterator[Call]:
    """The pool's bare handle: each call is one of Serve's."""
    from ray import serve

    score = serve.get_app_handle(pool.name).score

    async def call(rows: Rows) -> list[float]:
        return _checked((await score.remote(list(rows)))["score"].to_pylist())

    yield call


@asynccontextmanager
async def by_connect(pool: Pool) -> AsyncIterator[Call]:
    """`connect(app_name=...)`, which joins the calls of one event loop."""
    from polar_ray.client import connect

    with connect(app_name=pool.name, timeout_s=TIMEOUT_S) as client:
        yield lambda rows: client.score_async(rows)  # type: ignore[arg-type,return-value]


@asynccontextmanager
async def by_connect_http(pool: Pool) -> AsyncIterator[Call]:
    """`connect(address=...)`, which joins them too."""
    from polar_ray.client import connect

    with connect(address=pool.url, timeout_s=TIMEOUT_S) as client:
        yield lambda rows: client.score_async(rows)  # type: ignore[arg-type,return-value]


@asynccontextmanager
async def by_httpx(pool: Pool) -> AsyncIterator[Call]:
    """Somebody's own client: JSON by httpx, as many connections as calls."""
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=TIMEOUT_S, trust_env=False) as client:

        async def call(rows: Rows) -> list[float]:
            answer = await client.post(f"{pool.url}/score", json={"records": list(rows)})
            answer.raise_for_status()
            return scores_of(answer.json())

        yield call


@asynccontextmanager
async def by_aiohttp(pool: Pool) -> AsyncIterator[Call]:
    """The same by aiohttp."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:

        async def call(rows: Rows) -> list[float]:
            body = {"records": list(rows)}
            async with client.post(f"{pool.url}/score", json=body) as answer:
                answer.raise_for_status()
                return scores_of(await answer.json())

        yield call


WAYS: dict[str, Callable[[Pool], AbstractAsyncContextManager[Call]]] = {
    "batches": by_connect,
    "connect": by_connect,
    "connect over HTTP": by_connect_http,
    "handle": by_handle,
    "aiohttp": by_aiohttp,
    "httpx": by_httpx,
}


def scores_of(body: dict[str, Any]) -> list[float]:
    """The scores of a JSON answer; an error where there is none."""
    return _checked([row["score"] for row in body["results"]])


def _checked(scores: list[float | None]) -> list[float]:
    if None in scores:
        raise RuntimeError("a row has no score")
    return [score for score in scores if score is not None]
