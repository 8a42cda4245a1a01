"""Callers of a pool. Installs without torch; `connect` imports ray only for `app_name`."""

from __future__ import annotations

from polar_ray.call_options import Priority
from polar_ray.client.client import Client
from polar_ray.errors import ConfigError
from polar_ray.extras import require

__all__ = ["Client", "connect"]


def connect(
    *,
    app_name: str | None = None,
    address: str | None = None,
    timeout_s: float = 600,
    priority: Priority = "train",
    token: str | None = None,
) -> Client:
    """A client of a running pool.

    `app_name`: a Serve application of the Ray cluster that this process is part of ("polar" for
    pools that `polar-ray serve` started). `address`: "http://host:port" of a pool anywhere.
    `timeout_s` is the deadline of calls that name none. `priority`: "eval" and "offline" calls wait
    while "train" calls do not. `token`: what an `address` asks for, if it has a token file.
    """
    if app_name is not None and address is not None:
        raise ConfigError(f"app_name={app_name!r} and address={address!r}: give one, not both")
    if app_name is None and address is None:
        raise ConfigError("connect(app_name=...) within the Ray cluster, or connect(address=...)")
    if address is not None:
        from polar_ray.client.http import HttpTransport

        transport = HttpTransport(address, token=token)
        return Client(transport, timeout_s=timeout_s, priority=priority)
    if token is not None:
        raise ConfigError("a token is for address=...; within the Ray cluster there is none")
    require("ray", "connect(app_name=...), unlike connect(address=...),")
    from polar_ray.client.handle import HandleTransport

    assert app_name is not None
    return Client(HandleTransport(app_name), timeout_s=timeout_s, priority=priority)
