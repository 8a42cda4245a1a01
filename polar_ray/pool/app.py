"""Wires the router to its replicas, for `serve run polar_ray:app` and for Python.

No decisions are made here.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from typing import Any

import click
import ray
from pydantic import ValidationError
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from polar_ray.checkpoint import check, check_if_visible
from polar_ray.client.handle import ROUTER as ROUTER_NAME
from polar_ray.client.handle import cause
from polar_ray.config import PoolConfig, ScalingConfig, ScorerConfig
from polar_ray.config_base import explain
from polar_ray.errors import ConfigError, PoolError
from polar_ray.hub import pinned
from polar_ray.pool.autoscaling import REPORT_S, WINDOW_S, Policy
from polar_ray.pool.ingress import Shared
from polar_ray.pool.ray_internals import joins_a_cluster
from polar_ray.pool.replica.deployment import Replica
from polar_ray.pool.router.deployment import Router, build_ingress
from polar_ray.pool.router.request_router import ByName
from polar_ray.pool.runtime_env import check_runtime_env, why_not_made
from polar_ray.pool.settings import ONE_LOOP, REPLICA, ROUTER, TOKEN_HINT, check_environment

logger = logging.getLogger(__name__)

DEFAULT_NAME = "polar"

# Serve polls for a free router; its default of up to half a second would idle it.
QUICK = {"initial_backoff_s": 0.005, "backoff_multiplier": 1.5, "max_backoff_s": 0.02}


class Refused(click.ClickException, ConfigError):
    """A `ConfigError` that `serve run`, a command of click's, shows as one line."""


def app(config: PoolConfig | dict[str, Any]) -> serve.Application:
    """The application: `serve run --name polar polar_ray:app model=DIR num_replicas=4`.

    Raises `ConfigError` for settings that are none and a model that cannot be loaded: `serve
    deploy` calls this before it touches what runs.
    """
    try:
        if not isinstance(config, PoolConfig):
            config = PoolConfig.model_validate(config)
        check_runtime_env(config.runtime_env)
        (check_here if _runs_alone() else check_if_visible)(config.scorer)
    except ValidationError as error:
        raise Refused(str(explain(error))) from None
    except ConfigError as error:
        raise Refused(str(error)) from None
    return _wire(config)


def check_here(config: ScorerConfig) -> None:
    """Raises `ConfigError` for a model that cannot be loaded, where no other machine will have it:
    before a local Ray starts. What a hub has is fetched."""
    if config.model is not None:
        check(config)


def _runs_alone() -> bool:
    """Whether this is `serve run`, and it is about to start a local Ray."""
    command = click.get_current_context(silent=True)
    asked = command is not None and command.params.get("address", "") is None
    return asked and not joins_a_cluster()


def _wire(config: PoolConfig) -> serve.Application:
    replicas = serve.deployment(
        Replica,
        **_size(config),
        request_router_config=RequestRouterConfig(request_router_class=ByName, **QUICK),
        ray_actor_options={
            "num_cpus": config.num_cpus,
            "num_gpus": config.num_gpus,
            "runtime_env": config.runtime_env,
        },
        **REPLICA,
        # Of all settings, this one changes in the running processes; see `Replica.reconfigure`.
        user_config={"model": pinned(config.model)},
    ).bind(config.scorer.model_copy(update={"model": None}))
    return serve.deployment(
        serve.ingress(build_ingress)(Router),
        name=ROUTER_NAME,
        num_replicas=config.num_routers,
        request_router_config=RequestRouterConfig(request_router_class=Shared, **QUICK),
        ray_actor_options={
            "num_cpus": config.router_num_cpus,
            "runtime_env": {"env_vars": ONE_LOOP},
        },
        **ROUTER,
    ).bind(config, replicas)


def _size(config: PoolConfig) -> dict[str, Any]:
    """How many replicas there are, in Serve's words."""
    if config.max_replicas is None:
        return {"num_replicas": config.least_replicas}
    scaling = config.autoscaling or ScalingConfig()
    with warnings.catch_warnings():
        # `metrics_interval_s` is to become an environment variable, which Ray 2.60 does not read.
        warnings.simplefilter("ignore", DeprecationWarning)
        auto = AutoscalingConfig(
            min_replicas=config.least_replicas,
            max_replicas=config.max_replicas,
            upscale_delay_s=scaling.upscale_delay_s,
            downscale_delay_s=0,  # `Policy` waits itself
            look_back_period_s=WINDOW_S,
            metrics_interval_s=REPORT_S,
            policy=AutoscalingPolicy(
                policy_function=Policy,
                policy_kwargs={
                    "target_wait_s": scaling.target_wait_s,
                    "hold_s": scaling.downscale_delay_s,
                },
            ),
        )
    return {"autoscaling_config": auto}


def start(
    config: PoolConfig,
    *,
    name: str = DEFAULT_NAME,
    route_prefix: str = "/",
    timeout_s: float = 300,
) -> None:
    """Deploys a new pool on the running Ray cluster and returns when it is ready.

    Raises `ConfigError` at once if the cluster can never hold it or has an application of this name
    (`serve deploy` updates one), and `PoolError` with Serve's own message if it does not start; a
    plain `serve.run` would wait for ever, and replace what runs.
    """
    check_environment(os.environ)
    _check_resources(config)
    _check_name(name)
    target = serve.RunTarget(app(config), name=name, route_prefix=route_prefix)
    try:
        serve.run_many([target], wait_for_applications_running=False)
    except RayServeException as error:
        # Such as a route that another application has.
        way_out = f"; give this pool one of its own: route_prefix=/{name} (--route-prefix)"
        hint = way_out if "refix" in str(error) else ""
        raise ConfigError(f"pool {name!r}: {str(cause(error)).rstrip('.')}{hint}") from None
    try:
        wait_until_running(name, timeout_s)
    except BaseException:  # an interrupt too must leave nothing behind
        delete(name)
        raise


def delete(name: str) -> None:
    """Deletes a pool; where Serve takes longer than a minute, as while Ray still tries to start a
    replica, it goes on by itself."""
    try:
        serve.delete(name)
    except TimeoutError as error:
        logger.warning("pool %r is not deleted yet: %s", name, error)


def wait_until_running(name: str, timeout_s: float) -> None:
    """Returns once a pool that somebody starts runs; raises `PoolError` where it does not."""
    deadline = time.monotonic() + timeout_s
    while True:
        status = serve.status().applications.get(name)
        if status is None:
            raise PoolError(f"pool {name!r} was deleted while it started")
        if status.status == ApplicationStatus.RUNNING:
            return
        if status.status == ApplicationStatus.DEPLOY_FAILED or time.monotonic() > deadline:
            reasons = [_gist(d.message) for d in status.deployments.values() if d.message]
            raise PoolError(f"pool {name!r} did not start: {'; '.join(reasons) or status.message}")
        time.sleep(0.2)


def _gist(message: str) -> str:
    """This project's own error at the end of a replica's traceback, or why it has no environment,
    or else the whole message."""
    lines = [line.strip() for line in message.splitlines()]
    own = [line for line in lines if line.startswith("polar_ray.errors.")]
    if own:
        return own[-1].removeprefix("polar_ray.errors.")
    return why_not_made(message) or message


def _check_resources(config: PoolConfig) -> None:
    have = ray.cluster_resources()
    routers = config.num_routers * config.router_num_cpus
    for resource, each, more in (("CPU", config.num_cpus, routers), ("GPU", config.num_gpus, 0)):
        need = each * max(1, config.least_replicas) + more
        if need > have.get(resource, 0):
            name = "num_replicas" if config.max_replicas is None else "min_replicas"
            beside = f", {more:g} of them for routers" if more else ""
            raise ConfigError(
                f"{name}={config.least_replicas} with {each:g} {resource} each need {need:g}"
                f"{beside}, the cluster has {have.get(resource, 0):g}; lower {name} or "
                f"num_{resource.lower()}s"
            )


def _check_name(name: str) -> None:
    there = serve.status().applications.get(name)
    if there is not None and there.status == ApplicationStatus.DELETING:
        raise ConfigError(f"pool {name!r} is still being deleted; wait, or take another name")
    if there is not None and there.status != ApplicationStatus.DEPLOY_FAILED:
        raise ConfigError(
            f"this cluster has a Serve application {name!r} already ({there.status.value}); "
            f"take another name, or update it with `serve deploy` ({TOKEN_HINT})"
        )
