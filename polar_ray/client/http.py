"""The way to a pool from anywhere: Arrow IPC streams over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pyarrow as pa

from polar_ray.errors import (
    BY_NAME,
    ConfigError,
    DeadlineExceeded,
    Overloaded,
    PolarRayError,
    PoolError,
)

ARROW_STREAM = "application/vnd.apache.arrow.stream"
GRACE_S = 0.5
"""The server keeps the deadline and says why; this much later the client gives up on it too."""


class HttpTransport:
    """Posts batches to `{address}/score`."""

    def __init__(self, address: str, *, transport: httpx.BaseTransport | None = None) -> None:
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"address={address!r} must begin with http:// or https://")
        self._address = address.rstrip("/")
        self._http = httpx.Client(base_url=self._address, transport=transport)

    def carries(self, records: Any) -> bool:
        """Only bytes cross this border; everything becomes a table first."""
        return False

    def send(self, batch: pa.Table, timeout_s: float) -> pa.Table:
        """The result table of a batch."""
        try:
            return _read(self._http.send(self._request(batch, timeout_s)))
        except httpx.HTTPError as error:
            raise self._translate(error, timeout_s) from None

    async def send_async(self, batch: pa.Table, timeout_s: float) -> pa.Table:
        """`send` for an event loop."""
        # An async client belongs to the loop that it was made in; callers may have several.
        async with httpx.AsyncClient() as http:
            try:
                return _read(await http.send(self._request(batch, timeout_s)))
            except httpx.HTTPError as error:
                raise self._translate(error, timeout_s) from None

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _request(self, batch: pa.Table, timeout_s: float) -> httpx.Request:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_table(batch)
        return self._http.build_request(
            "POST",
            "/score",
            params={"timeout_s": timeout_s},
            content=bytes(sink.getvalue()),
            headers={"content-type": ARROW_STREAM},
            timeout=httpx.Timeout(timeout_s + GRACE_S, connect=min(10.0, timeout_s + GRACE_S)),
        )

    def _translate(self, error: httpx.HTTPError, timeout_s: float) -> PolarRayError:
        if isinstance(error, httpx.TimeoutException):
            return DeadlineExceeded(f"{self._address} did not answer within {timeout_s:g} s")
        return PoolError(f"cannot reach {self._address}: {error or type(error).__name__}")


def _read(response: httpx.Response) -> pa.Table:
    if response.status_code != 200:
        raise _error(response)
    with pa.ipc.open_stream(response.content) as reader:
        table = reader.read_all()
    table.validate(full=True)
    return table


def _error(response: httpx.Response) -> PolarRayError:
    """The server's error as the same class here; anything else is a `PoolError`."""
    try:
        detail = orjson.loads(response.content)["error"]
        kind, message = BY_NAME[detail["type"]], str(detail["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return PoolError(f"{response.url} answered {response.status_code}: {response.text[:200]}")
    if kind is Overloaded:
        return Overloaded(message, float(response.headers.get("retry-after", 1)))
    return kind(message)
