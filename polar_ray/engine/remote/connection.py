"""One request to one server: sent, read within bounds, and what can become of it.

Owns HTTP, its deadlines and its errors. Knows neither other servers nor what a score should be.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Sequence
from typing import Any

import httpx
import orjson

from polar_ray.client.servers import ServerType, finite_rewards, most_bytes, reason, request
from polar_ray.config import RemoteEngineConfig
from polar_ray.engine.protocol import Scores
from polar_ray.errors import ConfigError
from polar_ray.planning import Ids
from polar_ray.token_file import first_token

CONNECT_S = 5.0
ERROR_BYTES = 1 << 16
"""Of an answer that is no success."""

RETRY_S = 1.0
"""A busy server that does not say when to come back is left alone for so long."""

RETRY_BOUNDS_S = (0.1, 30.0)
"""What a server says about that is taken within these."""

OWN_FAULTS = (400, 413, 422)
"""Statuses by which a server says that the request is at fault."""

NOBODY = (502, 504)
"""Statuses by which what stands before a server says that it cannot be reached."""


class Trouble(Exception):
    """Why a request brought no scores; the server's trouble, as far as is known."""


class Unreached(Trouble):
    """No connection: the server never got the request."""


class Late(Trouble):
    """No whole answer in time."""


class Busy(Trouble):
    """The server has no room; it may be asked again after `retry_s`."""

    def __init__(self, message: str, retry_s: float) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class Refused(Trouble):
    """The server says that the request is at fault."""


class Connections:
    """What all requests of an engine share: a client that keeps connections, a token."""

    def __init__(self, config: RemoteEngineConfig) -> None:
        self._config = config
        try:
            self._http = httpx.AsyncClient(
                verify=_trust(config),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
                headers={"accept-encoding": "identity", "content-type": "application/json"},
            )
        except (ImportError, ValueError, OSError) as error:
            raise ConfigError(f"proxy or certificate settings for engine.addresses: {error}") from (
                None
            )
        self._token: str | None = None
        self.read_token()

    def read_token(self) -> None:
        """Reads the token again; raises `ConfigError` where there is none in its file."""
        path = self._config.token_file
        if path is None:
            return
        self._token = first_token(path, "engine.token_file")

    async def score(
        self, kind: ServerType, address: str, records: Sequence[Ids], timeout_s: float
    ) -> Scores:
        """The scores of some records by one server; raises a `Trouble`."""
        plain = [record.tolist() for record in records]
        route, body = request(kind, plain, self._config.served_name, activation=False)
        lengths = [len(record) for record in records]
        try:
            # httpx bounds each wait, which a server that drips would never reach.
            answer = await asyncio.wait_for(
                self._post(address + route, body, most_bytes(lengths)), timeout_s
            )
        except (TimeoutError, asyncio.TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
            raise Late(f"no answer within {timeout_s:.3g} s") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreached(f"no connection: {str(error) or type(error).__name__}") from None
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            # A RuntimeError says that the client has been closed.
            raise Trouble(str(error) or type(error).__name__) from None
        try:
            return finite_rewards(kind, answer, len(records), lengths)
        except ValueError as error:
            raise Trouble(
                f"answered with something else than {len(records)} scores in "
                f"{kind}'s shape ({error}); is it served as a reward model?"
            ) from None

    async def _post(self, url: str, body: dict[str, Any], most: int) -> Any:
        headers = {} if self._token is None else {"authorization": f"Bearer {self._token}"}
        timeout = httpx.Timeout(None, connect=CONNECT_S)
        ask = self._http.build_request(
            "POST", url, content=orjson.dumps(body), headers=headers, timeout=timeout
        )
        try:
            response = await self._http.send(ask, stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            # Servers close connections that rest, maybe just when this one is used again, and
            # what was sent by then has a reset for an answer.
            response = await self._http.send(ask, stream=True)
        try:
            data = await _read(response, most if response.status_code == 200 else ERROR_BYTES)
        finally:
            await response.aclose()
        if response.status_code != 200:
            raise _trouble(response, data)
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise Trouble(f"answered with what is no JSON: {error}") from None

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()


async def _read(response: httpx.Response, most: int) -> bytes:
    """A body of at most so many bytes, as they were sent: a small one that unpacks to a large one
    was not asked for."""
    if (coding := response.headers.get("content-encoding", "identity")) != "identity":
        raise Trouble(f"answered in content-encoding {coding:.40}, which it was not asked for")
    found = bytearray()
    async for chunk in response.aiter_raw():
        found += chunk
        if len(found) > most:
            if response.status_code != 200:
                return bytes(found[:most])
            raise Trouble(f"answered with more than {most} bytes")
    return bytes(found)


def _trouble(response: httpx.Response, data: bytes) -> Trouble:
    status = response.status_code
    said = f"answered {status}: {reason(data.decode(errors='replace')):.300}"
    if status in (429, 503):
        return Busy(said, retry_after_s(response.headers.get("retry-after")))
    if status in NOBODY:
        return Unreached(said)
    return Refused(said) if status in OWN_FAULTS else Trouble(said)


def retry_after_s(header: str | None) -> float:
    """When a busy server may be asked again, whatever it says of it."""
    try:
        seconds = RETRY_S if header is None else float(header)
    except ValueError:  # a date, or nonsense
        seconds = RETRY_S
    least, most = RETRY_BOUNDS_S
    return RETRY_S if math.isnan(seconds) else min(most, max(least, seconds))


def _trust(config: RemoteEngineConfig) -> ssl.SSLContext:
    if config.ca_file is not None:
        return ssl.create_default_context(cafile=config.ca_file)
    context: ssl.SSLContext = httpx.create_ssl_context()
    if not config.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
