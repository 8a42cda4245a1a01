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
from polar_ray.errors import ConfigError
from polar_ray.pool.http.port import check_number, check_port, free_port
from polar_ray.pool.settings import LONGEST_REQUEST_S, check_binding
from polar_ray.token_file import first_token

ENVIRONMENT = {
    # One line per request helps nobody at this rate.
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray starts its processes by fork. In a process that has had a cluster before, gRPC's threads
    # of then still run, and its fork handlers now and then abort the child or hang in it: the next
    # cluster's node "timed out during startup".
    "GRPC_ENABLE_FORK_SUPPORT": "0",
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

    Raises `ConfigError` before it starts anything where somebody listens on the port, where the
    cluster's Serve has no HTTP, or for a model that a local Ray's only machine does not have.
    """
    check_binding(host, has_tokens=config.http.token_file is not None)
    if not route_prefix.startswith("/"):
        raise ConfigError(f"--route-prefix {route_prefix!r} does not begin with a slash")
    port = check_number(port) if port else free_port()
    check_if_visible(config.scorer)  # before Ray is loaded, which takes longer
    set_environment()

    from polar_ray.pool.app import check_here, delete, start
    from polar_ray.pool.ray_internals import http_address, joins_a_cluster
    from polar_ray.pool.runtime_env import check_runtime_env

    check_runtime_env(config.runtime_env)
    if not joins_a_cluster():
        if config.http.token_file is not None:
            first_token(config.http.token_file, "http.token_file")
        check_port(host, port)
        check_here(config.scorer)
    with cluster() as made_here, _serve(host, port, stays=made_here):
        start(config, name=name, route_prefix=route_prefix)
        try:
            # Where Serve runs already, its host and port stay.
            host, port = http_address() or (host, port)
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{port}{route_prefix.rstrip('/')}"
        finally:
            delete(name)


def set_environment() -> None:
    """What a Ray that is loaded after this reads, unless it is given already."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)


@contextmanager
def cluster() -> Iterator[bool]:
    """The Ray cluster at hand, or a local one for as long as the block: whether it is a local
    one."""
    set_environment()

    import ray

    from polar_ray.pool.ray_internals import joins_a_cluster

    # Serve greets its caller on stderr at every start.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if ray.is_initialized():
        yield False
        return
    made_here = not joins_a_cluster()
    with _own_sigterm():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        yield made_here
    finally:
        ray.shutdown()


@contextmanager
def _serve(host: str, port: int, *, stays: bool) -> Iterator[None]:
    """Serve with HTTP, stopped at the end if it was started here, unless it `stays`, as on a
    cluster that takes it with it, or somebody has joined it since."""
    from ray import serve

    from polar_ray.pool.ray_internals import http_address, serve_runs

    had_serve = serve_runs()
    if not had_serve:
        check_port(host, port)
    elif http_address() is None:
        raise ConfigError(
            "Serve runs on this cluster without HTTP, as a rescoring job starts it, and cannot "
            "be given any: start the pool once the job is done, which takes its Serve with it, "
            "or run `serve shutdown`"
        )
    try:
        http = {"host": host, "port": port, "request_timeout_s": LONGEST_REQUEST_S}
        serve.start(http_options=http, logging_config={"log_level": "ERROR"})
        yield
    finally:
        if not (had_serve or stays or serve.status().applications):
            serve.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Puts this process's handler of SIGTERM back, if it has one: `ray.init` puts one in place that
    leaves at once, also for a second signal while the first is being acted upon."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
