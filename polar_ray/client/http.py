"""The way to a pool from anywhere: Arrow IPC streams over HTTP."""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import httpx
import orjson
import pyarrow as pa

from polar_ray.call_options import Priority
from polar_ray.client.answers import AS_IT_IS, has_ids_of, packed
from polar_ray.client.coalesce import GRACE_S
from polar_ray.client.lanes import Lanes
from polar_ray.errors import (
    BY_NAME,
    ConfigError,
    DeadlineExceeded,
    Overloaded,
    PolarRayError,
    PoolError,
    ReplicaLost,
    ScoreError,
    Unavailable,
)
from polar_ray.scores import check_scores
from polar_ray.stream import (
    ARROW_STREAM,
    CONTENT_DIGEST,
    check_digest,
    digest,
    encode_arrow,
    read_arrow,
)
from polar_ray.token_file import check_token

ELSES: dict[int, type[PoolError]] = {
    404: Unavailable,
    500: ReplicaLost,
    502: Unavailable,
    503: Unavailable,
    504: ReplicaLost,
}
"""What Serve's proxy, or one in front of it, says in a pool's place: that there is no way to it at
present (a new proxy does not know its routes yet), or that it did not bring the answer."""

ASK_TIMEOUT_S = 8.0
"""A pool that is not ready says so after 5 s."""

ANSWER_BYTES = 1 << 20
ROW_BYTES = 1 << 14
"""The longest answer that is read: so much, beside the ids that come back, and so much for each
row. A row has five values, of which one may be an error's text."""


class HttpTransport:
    """Posts batches to `{address}/score`. Proxies are taken from the environment, as by httpx."""

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        transport: httpx.MockTransport | None = None,
    ) -> None:
        self._url = _parse(address)
        self._address = str(self._url).rstrip("/")
        # What errors show; an address may hold a password.
        self._name = str(self._url.copy_with(userinfo=b"")).rstrip("/")
        self._headers = {"content-type": ARROW_STREAM, **AS_IT_IS}
        if check_token(token) is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._answered = self._closed = False
        with _settings_read():
            # Reading the certificates takes longer than a request, so it is done once.
            tls = httpx.create_ssl_context()
            # Wrong settings are told at once.
            httpx.Client(verify=tls, transport=transport).close()
        self._lanes = Lanes(partial(_made, tls, transport))

    def __repr__(self) -> str:
        return f"address={self._name!r}"

    def carries(self, records: object) -> bool:
        """Only bytes cross this border; everything becomes a table first."""
        return False

    def send(self, batch: pa.Table, timeout_s: float, priority: Priority) -> pa.Table:
        """The result table of a batch."""
        most_bytes = _most_bytes(batch)
        with self._translated(timeout_s):
            request = self._request(batch, timeout_s, priority)
            response, body = self._lanes.exchange(request, timeout_s + GRACE_S, most_bytes)
        return self._read(response, body, batch, most_bytes)

    async def send_async(self, batch: pa.Table, timeout_s: float, priority: Priority) -> pa.Table:
        """`send` for an event loop."""
        most_bytes = _most_bytes(batch)
        with self._translated(timeout_s):
            request = self._request(batch, timeout_s, priority)
            seconds = timeout_s + GRACE_S
            response, body = await self._lanes.exchange_async(request, seconds, most_bytes)
        return self._read(response, body, batch, most_bytes)

    def why_waiting(self) -> str:
        """What the pool says of its state, or that it says nothing."""
        extensions = {"timeout": _timeout(ASK_TIMEOUT_S)}
        request = httpx.Request(
            "GET", f"{self._address}/ready", headers=AS_IT_IS, extensions=extensions
        )
        try:
            answer, body = self._lanes.exchange(request, ASK_TIMEOUT_S, ANSWER_BYTES)
        except (httpx.HTTPError, asyncio.TimeoutError, ConfigError, RuntimeError) as error:
            return f"{self._name} does not answer ({str(error) or type(error).__name__})"
        if (own := _own_error(answer, body)) is not None:
            return str(own)
        try:
            return str(orjson.loads(body)["waiting"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return f"{self._name} answers {answer.status_code} to {self._name}/ready"

    def close(self) -> None:
        """Closes the connections."""
        self._closed = True
        self._lanes.close()

    def _request(self, batch: pa.Table, timeout_s: float, priority: Priority) -> httpx.Request:
        body = encode_arrow(batch)
        return httpx.Request(
            "POST",
            f"{self._address}/score",
            params={"timeout_s": timeout_s, "priority": priority},
            content=body,
            headers={**self._headers, CONTENT_DIGEST: digest(body)},
            extensions={"timeout": _timeout(timeout_s + GRACE_S)},
        )

    def _read(
        self, response: httpx.Response, body: bytes, batch: pa.Table, most_bytes: int
    ) -> pa.Table:
        if response.status_code != 200:
            raise self._error(response, body)
        if (coding := packed(response)) is not None:
            raise PoolError(
                f"{self._name} answered in content-encoding {coding}, which was not asked for"
            )
        if len(body) > most_bytes:
            raise PoolError(f"{self._name} answered with more than {most_bytes} bytes")
        try:
            check_digest(response.headers.get(CONTENT_DIGEST), body)
            table = read_arrow(body)
            table.validate(full=True)
            check_scores(table, batch.num_rows)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise PoolError(
                f"{self._name} answered with something else than this batch's scores ({error}); "
                "is it a polar_ray pool of this version?"
            ) from None
        self._answered = True
        if not has_ids_of(table, batch):
            raise ReplicaLost(f"{self._name} answered with rows of other ids than it was sent")
        return table

    def _error(self, response: httpx.Response, body: bytes) -> PolarRayError:
        """The pool's error as the same class here; anything else is a `PoolError`."""
        if (own := _own_error(response, body)) is not None:
            self._answered = True
            return own
        shown = body[:200].decode(errors="replace")
        kind = ELSES.get(response.status_code, PoolError) if self._expected_back else PoolError
        return kind(f"{self._name} answered {response.status_code}: {shown}")

    @contextmanager
    def _translated(self, timeout_s: float) -> Iterator[None]:
        """Errors of httpx and of the event loop as this project's own."""
        if self._closed:
            raise PoolError(f"cannot reach {self._name}: the client has been closed")
        try:
            yield
        except (httpx.TimeoutException, TimeoutError, asyncio.TimeoutError) as error:
            if isinstance(error, httpx.ConnectTimeout) and self._expected_back:
                raise Unavailable(f"cannot reach {self._name}: no connection in time") from None
            shown_s = max(0.01, round(timeout_s, 2))  # of what a retry has left, maybe next to none
            late = f"{self._name} did not answer within {shown_s:g} s"
            raise DeadlineExceeded(late) from None
        except (httpx.HTTPError, RuntimeError) as error:
            # A RuntimeError says that there is no room for a thread.
            way = _proxy(self._url)
            reason = f"{str(error) or type(error).__name__}{way}"
            kind: type[PoolError] = PoolError
            if self._expected_back:
                kind = Unavailable if isinstance(error, httpx.ConnectError) else ReplicaLost
            raise kind(f"cannot reach {self._name}: {reason}") from None

    @property
    def _expected_back(self) -> bool:
        """A pool that has answered before; an address that never did is wrong."""
        return self._answered and not self._closed


def _parse(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigError(f"address={address!r} is no URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ConfigError(
            f"address={address!r} must begin with http:// or https:// and hold a host, no query"
        )
    return url


def _most_bytes(batch: pa.Table) -> int:
    ids = int(batch["id"].nbytes) if "id" in batch.column_names else 0
    return int(ANSWER_BYTES + ids + ROW_BYTES * batch.num_rows)


def _made(tls: ssl.SSLContext, transport: httpx.MockTransport | None) -> httpx.AsyncClient:
    with _settings_read():
        return httpx.AsyncClient(verify=tls, transport=transport)


@contextmanager
def _settings_read() -> Iterator[None]:
    """What is wrong with the environment, as an error of this project."""
    try:
        yield
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(f"proxy or certificate settings for HTTP: {error}") from None


def _timeout(seconds: float) -> dict[str, float | None]:
    return httpx.Timeout(seconds, connect=min(10.0, seconds)).as_dict()


def _proxy(url: httpx.URL) -> str:
    """A hint for those who forgot what their environment says."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(url.host):
        return ""
    return f" (by the proxy {proxy}, which the environment names; NO_PROXY={url.host} avoids it)"


def _own_error(response: httpx.Response, body: bytes) -> PolarRayError | None:
    """The error that a pool has put into its answer; None where another server has spoken."""
    try:
        detail = orjson.loads(body)["error"]
        kind, message = BY_NAME[detail["type"]], str(detail["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if kind is ScoreError:  # made of rows by a client; no server has one to send
        return None
    if kind is Overloaded:
        return Overloaded(message, _retry_after(response.headers.get("retry-after", "")))
    return kind(message)


def _retry_after(header: str) -> float:
    try:
        return float(header)
    except ValueError:  # absent, or a date
        return 1.0
