"""No default of Serve's that waits, queues or listens without bounds is left as it is."""

from __future__ import annotations

import io
import logging

import pytest

from polar_ray.config import PoolConfig
from polar_ray.errors import ConfigError, Overloaded, PoolError, RecordError
from polar_ray.pool.settings import DANGEROUS, check_binding, check_environment, log_plainly


def test_every_unbounded_default_of_serve_is_set() -> None:
    from polar_ray.pool.app import app

    application = app(PoolConfig(num_replicas=3, num_routers=2))
    router = application._bound_deployment
    replica = router.init_args[1]._bound_deployment
    assert (router.name, router.num_replicas) == ("Router", 2)
    assert (replica.name, replica.num_replicas) == ("Replica", 3)
    for deployment in (router, replica):
        config = deployment._deployment_config
        assert 0 < config.max_queued_requests < 100_000
        assert 0 < config.max_ongoing_requests < 100_000
        assert config.health_check_period_s <= 5
        assert config.health_check_timeout_s <= 30
        assert 0 < config.graceful_shutdown_timeout_s <= 600
        assert config.graceful_shutdown_wait_loop_s <= 2
        assert config.request_router_config.max_backoff_s <= 0.1
    chosen = replica._deployment_config.request_router_config.request_router_class
    assert chosen == "polar_ray.pool.router.request_router.ByName"


def test_health_checks_end_before_serve_counts_them_as_failed() -> None:
    from polar_ray.pool.replica.loaded import PROBE_TIMEOUT_S
    from polar_ray.pool.settings import REPLICA

    assert REPLICA["health_check_timeout_s"] > PROBE_TIMEOUT_S


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (RecordError("a mistake"), []),
        (Overloaded("full"), []),
        (PoolError("lost"), ["request failed: PoolError: lost"]),
    ],
)
def test_serve_logs_no_traceback_of_an_error_that_callers_get(
    error: Exception, lines: list[str]
) -> None:
    logger, said = logging.Logger("serve"), io.StringIO()
    logger.addHandler(logging.StreamHandler(said))
    logger.addFilter(log_plainly)
    for raised in (error, KeyError("a bug")):
        try:
            raise raised
        except Exception:
            logger.exception("Request failed.")  # as Serve does
    found = said.getvalue().splitlines()
    assert found[: len(lines)] == lines
    assert found[len(lines) :][:2] == ["Request failed.", "Traceback (most recent call last):"]


@pytest.mark.parametrize("name", DANGEROUS)
def test_dangerous_settings_are_refused_by_name(name: str) -> None:
    for off in ({}, {name: "0"}, {name: ""}, {name: "false"}):
        check_environment(off)
    for on in ("1", "true", "True"):
        with pytest.raises(ConfigError, match=f"{name} is set"):
            check_environment({name: on})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3", None])
def test_this_machine_needs_no_token(host: str | None) -> None:
    check_binding(host, has_tokens=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.2", "head.example"])
def test_the_network_does(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"listen on {host} without a token.*http\.token_file"):
        check_binding(host, has_tokens=False)
    check_binding(host, has_tokens=True)
