"""Tokens: who may use the pool's HTTP side.

Every route asks for one but those that say only whether the pool lives. Imports no ray.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from polar_ray.errors import AuthError, ConfigError
from polar_ray.token_file import read_tokens

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/ready"})
"""What a load balancer asks, which has no token, and a caller that waits. They tell how many
replicas and calls there are, and nothing of what is scored."""

RELOAD_S = 1.0
"""A changed file is read again after at most this long."""


class Tokens:
    """The tokens of a file, one a line; several, so that they can be exchanged one by one.

    Keeps digests only. Raises `ConfigError` if there is no token to begin with, or a line that is
    none.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._looked_at = clock()
        try:
            self._version = self._stat()
            self._digests = _read(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"http.token_file={str(path)!r} cannot be read: {error}") from None
        if not self._digests:
            raise ConfigError(f"http.token_file={str(path)!r} holds no token; write one a line")

    def allow(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header carries one of the tokens.

        Takes the same time whichever it is, and whether it is one.
        """
        self._reload()
        kind, _, sent = (authorization or "").partition(" ")
        digest = _digest(_token(kind.lower(), sent.strip()))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)

    def _reload(self) -> None:
        if self._clock() - self._looked_at < RELOAD_S:
            return
        self._looked_at = self._clock()
        try:
            version = self._stat()
            if version != self._version:
                self._digests, self._version = _read(self._path), version
                logger.warning("read %s token(s) from %s", len(self._digests), self._path)
        except (OSError, ValueError) as error:
            # Whoever replaces the file may be in the middle of it.
            logger.warning("the tokens of %s stay as they are: %s", self._path, error)

    def _stat(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino


Refuse = Callable[[Scope, AuthError], Awaitable[ASGIApp]]
"""Makes the answer to what is not allowed."""


class Guard:
    """ASGI middleware in front of all routes, also those that nobody has thought of yet."""

    def __init__(self, app: ASGIApp, tokens: Callable[[], Tokens | None], refuse: Refuse) -> None:
        self._app, self._tokens, self._refuse = app, tokens, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what is allowed; `refuse` makes the answer to the rest."""
        if scope["type"] == "lifespan" or self._allowed(scope):
            await self._app(scope, receive, send)
            return
        error = AuthError(
            "send the header `Authorization: Bearer TOKEN` with a token of this pool (commands of "
            "polar-ray: --token-file FILE), or, as a client that can send none, "
            "http://any:TOKEN@HOST"
        )
        await (await self._refuse(scope, error))(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        tokens = self._tokens()
        if tokens is None:
            return True
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN_PATHS and scope["type"] == "http":
            return True
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(headers) == 1 and tokens.allow(headers[0].decode("latin-1"))


def _token(kind: str, sent: str) -> str:
    """What a header carries as a token, which may be none: a bearer's, or the password of an
    address (`http://any:TOKEN@host`). Most trainers' clients can send nothing else."""
    if kind == "bearer":
        return sent
    if kind == "basic":
        with suppress(ValueError):
            return base64.b64decode(sent, validate=True).decode().partition(":")[2]
    return ""


def _read(path: Path) -> list[bytes]:
    return [_digest(token) for token in read_tokens(path)]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
