"""Settings of Ray and Serve that this pool sets, or refuses to run under.

Serve's own defaults wait for ever, queue without bounds and bind where they are told; each of them
has a value here, and a test that none is forgotten. Imports no ray.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from typing import Any

from polar_ray.errors import HTTP_STATUS, ConfigError, PolarRayError

# One line for each request helps nobody at this rate.
LOGGING = {"enable_access_log": False, "log_level": "WARNING"}

REPLICA: dict[str, Any] = {
    "logging_config": LOGGING,
    # The routers count slots themselves; this is what their cancelled work may add to.
    "max_ongoing_requests": 100,
    "max_queued_requests": 1_000,
    # A dead replica is noticed within seconds, a hung one within half a minute.
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 10.0,
    "graceful_shutdown_wait_loop_s": 0.5,
    # Longer than a shard takes; what is not done by then goes to another replica.
    "graceful_shutdown_timeout_s": 60.0,
}
ROUTER: dict[str, Any] = {
    "logging_config": LOGGING,
    # Most calls wait; admission bounds them with a reason, before Serve does without.
    "max_ongoing_requests": 20_000,
    "max_queued_requests": 20_000,
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 10.0,
    "graceful_shutdown_wait_loop_s": 0.5,
    "graceful_shutdown_timeout_s": 60.0,
}
ONE_LOOP = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
"""Environment of router processes: what Serve does in three threads by default is done in one event
loop. They would take turns at the interpreter's lock, and each parcel goes through all of them."""

TOKEN_HINT = "after an AuthenticationError: `export RAY_AUTH_MODE=token`"
"""Beside `serve deploy` and `serve status`: they ask the cluster's dashboard, which wants the token
that Ray makes by itself, and which Ray's commands send only when they are told to."""

LONGEST_REQUEST_S = 3600.0
"""Serve's own bound of an HTTP request, for what slips through the deadlines of this project."""

DANGEROUS = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "it sends shards over a channel that ends at 4 MB",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "it sends shards over a channel that ends at 4 MB",
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": "it runs code that data files bring",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR": "it runs code that data files bring",
    "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE": "it runs code that data files bring",
    "RAY_DISABLE_CUSTOM_ARROW_DATA_SERIALIZATION": "slices of tables would travel as whole tables",
}
"""Environment variables that break or endanger the pool when they are on."""


def log_plainly(record: logging.LogRecord) -> bool:
    """A filter of Serve's logger, which has a traceback for every call that raises: what a caller
    is told to mend is not logged at all, as over HTTP, and what else is this project's own error
    is one line."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, PolarRayError):
        return True
    record.msg, record.args = "request failed: %s: %s", (type(error).__name__, error)
    record.exc_info = record.exc_text = None
    record.levelno, record.levelname = logging.WARNING, "WARNING"
    return HTTP_STATUS.get(type(error), 500) >= 500


def check_environment(environment: Mapping[str, str]) -> None:
    """Raises `ConfigError` where a setting of Ray's must not be."""
    for name, reason in DANGEROUS.items():
        if environment.get(name, "").strip().lower() in ("1", "true", "yes", "on"):
            raise ConfigError(f"{name} is set: {reason}; unset it on every node")


def check_binding(host: str | None, *, has_tokens: bool) -> None:
    """Raises `ConfigError` for a pool that anybody on the network could use."""
    if has_tokens or host is None or _is_local(host):
        return
    raise ConfigError(
        f"HTTP would listen on {host} without a token: anybody who reaches it could use the pool. "
        "Set http.token_file=FILE (one token a line), or bind to 127.0.0.1"
    )


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name; where it leads is not known
        return False
