"""Several addresses of one service: which is asked next, how long, and when all are asked again.

Calls are safe to repeat. Knows neither requests nor answers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from polar_ray.call_options import check_timeout
from polar_ray.errors import ConfigError, DeadlineExceeded, PolarRayError, PoolError

T = TypeVar("T")

Wait = Callable[[PolarRayError, int], float]
"""Seconds until the next round, by what the last address said and the number of rounds so far;
raises the error if there is to be none."""


def urls(addresses: str | Sequence[str]) -> list[str]:
    """Addresses as URLs: `host:port`, several with commas between them, or a list of such."""
    listed = [addresses] if isinstance(addresses, str) else addresses
    if not isinstance(listed, list | tuple) or not all(isinstance(text, str) for text in listed):
        raise ConfigError(f"server_address={addresses!r:.80}; give host:port, or several in a list")
    found = [part.strip().rstrip("/") for text in listed for part in text.split(",")]
    if not found or not all(found):
        raise ConfigError(f"server_address={addresses!r:.80}; give host:port, or several")
    return [_checked(text if "://" in text else f"http://{text}") for text in found]


def _checked(url: str) -> str:
    try:
        urlsplit(url).port  # noqa: B018  (it raises where it is no port)
    except ValueError as error:
        raise ConfigError(f"server_address: {error}") from None
    return url


def ask_around(
    targets: Sequence[T],
    ask: Callable[[T, float], list[float]],
    *,
    timeout_s: float,
    wait: Wait,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[float]:
    """What the first target that answers says. `ask` gets a target and its seconds.

    A target that fails is followed by the next one at once; after a round of all, `wait` decides.
    What another target would say, too, is raised.
    """
    until = clock() + check_timeout(timeout_s)
    start, rounds = random.randrange(len(targets)), 0
    while True:
        for number in range(len(targets)):
            left = until - clock()
            if left <= 0:
                raise DeadlineExceeded(f"no answer within {timeout_s:g} s")
            try:
                # A target that hangs must leave time for the others.
                return ask(targets[(start + number) % len(targets)], left / (len(targets) - number))
            except PoolError as error:
                last = error
        if isinstance(last, DeadlineExceeded) and until - clock() <= 0:
            raise last
        seconds = wait(last, rounds)
        if seconds >= until - clock():
            raise last
        sleep(seconds)
        rounds += 1
