"""The records that a request brings: from its first byte to a table, within limits.

Owns where the work is done. Bodies of strangers are read by two threads of their own, one for large
and one for small ones: what is decoded at the same time stays bounded, the event loop has its
turns, and nobody with a small body waits for a large one. Imports no ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from polar_ray.config import PoolConfig
from polar_ray.errors import RecordError, TooLarge
from polar_ray.pool.http.arrow_body import decode_arrow
from polar_ray.pool.http.json_body import JSON, decode_json
from polar_ray.records import Batch, to_batch
from polar_ray.sizes import LARGE_BYTES, TINY_BYTES
from polar_ray.stream import ARROW_STREAM, CONTENT_DIGEST, check_digest

T = TypeVar("T")

Admit = Callable[[int], None]
"""Is told of each number of bytes that a call brings; raises where there is no room for them."""

Read = Callable[[Admit], Awaitable[Batch]]
"""Gets the records of a call that has been admitted."""


class Threads:
    """Where bodies are read and answers are written."""

    def __init__(self) -> None:
        self._small, self._large = (ThreadPoolExecutor(1, name) for name in ("small", "large"))
        self._turns = {self._small: asyncio.Lock(), self._large: asyncio.Lock()}
        """What waits for its turn waits here, and is let go of with its caller; what an executor
        holds, it holds until it comes to it."""

    async def run(self, size_bytes: int, work: Callable[[], T]) -> T:
        """What `work` returns; once begun, it goes on by itself if nobody awaits it any more."""
        if size_bytes <= TINY_BYTES:
            return work()
        threads = self._large if size_bytes > LARGE_BYTES else self._small
        turn = self._turns[threads]
        await turn.acquire()
        doing = asyncio.get_running_loop().run_in_executor(threads, work)

        def end(done: asyncio.Future[T]) -> None:
            turn.release()
            done.exception()  # heard of, though nobody may await it any more

        doing.add_done_callback(end)
        return await asyncio.shield(doing)


class Upload:
    """One request's records. `arrived` says whether the whole body is here. `decode` reads a body
    of JSON that is not this pool's own."""

    def __init__(
        self,
        request: Request,
        config: PoolConfig,
        threads: Threads,
        decode: Callable[[bytes], Batch] | None = None,
    ) -> None:
        self._request, self._config, self._threads = request, config, threads
        self._decode = decode or self._decode_own
        self.kind = _kind(request)
        if decode is not None and self.kind != JSON:
            raise RecordError(f"content-type {self.kind!r}; send {JSON}, or records to POST /score")
        self.arrived = False

    async def read(self, admit: Admit) -> Batch:
        """The batch, once its call is admitted; `admit` is told of what is held for it."""
        limits = self._config.http
        body = await read_body(self._request, limits.max_body_bytes, limits.body_timeout_s, admit)
        self.arrived = True
        # What is small may unpack to much, if it is Arrow's.
        size = len(body) if self.kind == JSON else max(len(body), TINY_BYTES + 1)
        batch = await self._threads.run(size, lambda: self._read(body))
        # An Arrow table keeps its whole body, however little of it is in use.
        admit(max(0, batch.table.nbytes - len(body)))
        return batch

    def _read(self, body: bytes) -> Batch:
        check_digest(self._request.headers.get(CONTENT_DIGEST), body)
        return self._decode(body)

    def _decode_own(self, body: bytes) -> Batch:
        if self.kind == ARROW_STREAM:
            return to_batch(decode_arrow(body, self._config.http))
        return decode_json(body, self._config.http, self._config.encoding.max_field_bytes)


def _kind(request: Request) -> str:
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind not in (JSON, ARROW_STREAM):
        raise RecordError(f"content-type {kind!r:.80}; send {JSON} or {ARROW_STREAM}")
    return kind


async def read_body(request: Request, max_bytes: int, timeout_s: float, admit: Admit) -> bytes:
    """The request's body; `TooLarge` as soon as it is known to be over the limit. `admit` is told
    of its bytes as they come."""
    coding = request.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise RecordError(f"content-encoding {coding!r:.80}; send the body as it is")
    if _declared(request) > max_bytes:
        raise _too_large(max_bytes)
    try:
        return await asyncio.wait_for(_read_stream(request, max_bytes, admit), timeout_s)
    except ClientDisconnect:
        raise RecordError("the client left before it had sent its request") from None
    except (TimeoutError, asyncio.TimeoutError):
        raise RecordError(
            f"the body took longer than http.body_timeout_s={timeout_s:g} to arrive; send less"
        ) from None


def _declared(request: Request) -> int:
    """The announced length; 0 where there is none that can be read."""
    try:
        return int(request.headers.get("content-length", "0")[:20])
    except ValueError:
        return 0


async def _read_stream(request: Request, max_bytes: int, admit: Admit) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        admit(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is over http.max_body_bytes={max_bytes}; send several batches")
