"""A pool for as long as a `with` block: on the Ray cluster at hand, or a local one made for it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from polar_ray.checkpoint import check_if_visible
from polar_ray.config import PoolConfig
from polar_ray.pool.http.port import check_number, check_port, free_port
from polar_ray.pool.settings import LONGEST_REQUEST_S, check_binding

QUIET_ENV = {
    # One line per request helps nobody at this rate.
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextmanager
def pool(
    config: PoolConfig,
    *,
    name: str = "polar",
    host: str = "127.0.0.1",
    port: int = 0,
    route_prefix: str = "/",
) -> Iterator[str]:
    """Starts a pool, yields its URL, and stops what it started: the application always, Serve and
    Ray only if they were not running before. `host` and `port` (0: a free one) are for a Serve
    that starts here; one that runs keeps its own.

    Raises `ConfigError` before it starts anything where somebody listens on the port.
    """
    check_binding(host, has_tokens=config.http.token_file is not None)
    port = check_number(port) if port else free_port()
    check_if_visible(config.scorer)
    for key, value in QUIET_ENV.items():
        os.environ.setdefault(key, value)

    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    from polar_ray.pool.app import start

    # Serve greets its caller on stderr at every start.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ours = not ray.is_initialized()
    if ours:
        if not _finds_a_cluster():
            check_port(host, port)
        with _own_sigterm():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    had_serve = _get_global_client(raise_if_no_controller_running=False) is not None
    try:
        if not had_serve:
            check_port(host, port)
        http = {"host": host, "port": port, "request_timeout_s": LONGEST_REQUEST_S}
        serve.start(http_options=http, logging_config={"log_level": "ERROR"})
        start(config, name=name, route_prefix=route_prefix)
        try:
            bound = _get_global_client().http_config
            shown = f"[{bound.host}]" if ":" in bound.host else bound.host
            yield f"http://{shown}:{bound.port}{route_prefix.rstrip('/')}"
        finally:
            serve.delete(name)
    finally:
        # A cluster made here takes its Serve with it. On one that was there before, Serve goes too,
        # unless somebody has joined it since.
        if not (had_serve or _made_the_cluster() or serve.status().applications):
            serve.shutdown()
        if ours:
            ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Puts this process's handler of SIGTERM back, if it has one: `ray.init` puts one in place that
    leaves at once, also for a second signal while the first is being acted upon."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _finds_a_cluster() -> bool:
    """Whether `ray.init` would join a cluster, whose Serve may have its port already."""
    from ray._private.services import get_ray_address_from_environment

    return get_ray_address_from_environment(None, None) not in (None, "local")


def _made_the_cluster() -> bool:
    """Whether this process started the Ray cluster that it is in."""
    from ray._private import worker

    node = worker._global_node
    return node is not None and bool(node.is_head())
