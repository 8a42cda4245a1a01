"""Callers of a pool. Installs without torch; `connect` imports ray only for `app_name`."""

from __future__ import annotations

from polar_ray.client.client import Client
from polar_ray.errors import ConfigError

__all__ = ["Client", "connect"]


def connect(
    *, app_name: str | None = None, address: str | None = None, timeout_s: float = 600
) -> Client:
    """A client of a running pool.

    `app_name`: a Serve application of the Ray cluster that this process is part of ("polar" for
    pools that `polar-ray serve` started). `address`: "http://host:port" of a pool anywhere.
    `timeout_s` is the deadline of calls that name none.
    """
    if (app_name is None) == (address is None):
        raise ConfigError("connect(app_name=...) within the Ray cluster, or connect(address=...)")
    if address is not None:
        from polar_ray.client.http import HttpTransport

        return Client(HttpTransport(address), timeout_s=timeout_s)
    try:
        from polar_ray.client.handle import HandleTransport
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"connect(app_name=...) needs {error.name!r}; install it with: "
            "pip install 'polar-ray[pool]', or use connect(address=...)"
        ) from None
    assert app_name is not None
    return Client(HandleTransport(app_name), timeout_s=timeout_s)
