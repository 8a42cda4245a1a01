"""A pool for one job: started for it, and taken down after it, whatever becomes of its driver.

The pool is named after the job, so that the next run of a command whose driver was killed finds it
with its models loaded. A lease, held by a small detached actor, deletes it when no driver has asked
for it for a minute.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from polar_ray.config import PoolConfig, RescoreConfig
from polar_ray.data.storage import place
from polar_ray.errors import JobStopped
from polar_ray.pool.app import start, wait_until_running
from polar_ray.pool.local import cluster
from polar_ray.pool.ray_internals import http_address, serve_runs

logger = logging.getLogger(__name__)

NAMESPACE = "polar_ray"
LEASE_S = 60.0
RENEW_S = 5.0
RETRY_S = 1.0
ANSWER_S = 30.0
TAKEN_DOWN_S = 120.0
"""Replicas may take a minute to end."""


@contextmanager
def own_pool(config: RescoreConfig, out: str) -> Iterator[str]:
    """The name of a pool of `num_workers` replicas for the job that writes to `out`, on the Ray
    cluster at hand or a local one made for it."""
    settings = pool_config(config)
    said = f"{place(out).path}\n{settings.model_dump_json()}"
    name = f"rescore-{sha256(said.encode()).hexdigest()[:12]}"
    with cluster():
        if not serve_runs():  # nobody calls this pool over HTTP
            serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        with _leased(name):
            _run(settings, name, config.patience_s)
            yield name


def pool_config(config: RescoreConfig) -> PoolConfig:
    """What that pool is started with."""
    return PoolConfig(
        **{name: getattr(config, name) for name in type(config.scorer).model_fields},
        num_replicas=config.num_workers,
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        runtime_env=config.runtime_env,
    )


def _run(settings: PoolConfig, name: str, timeout_s: float) -> None:
    """Starts the pool, unless another run of the job has started it, or is about to."""
    there = serve.status().applications.get(name)
    if there is not None and there.status in (
        ApplicationStatus.RUNNING,
        ApplicationStatus.DEPLOYING,
    ):
        wait_until_running(name, timeout_s)
        return
    if there is not None:
        serve.delete(name)
    start(settings, name=name, route_prefix=f"/{name}", timeout_s=timeout_s)


@contextmanager
def _leased(name: str) -> Iterator[None]:
    """Holds the lease of a pool, and takes the pool down at the end unless another run of the same
    job holds it by then."""
    holder = uuid.uuid4().hex
    lease = _take(name, holder)
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, holder, over), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        try:
            if ray.get(lease.release.remote(holder), timeout=TAKEN_DOWN_S):
                ray.kill(lease)
        except (RayError, TimeoutError) as error:
            logger.warning("pool %r goes once its lease has run out: %s", name, error)


def _take(name: str, holder: str) -> Any:
    """The lease of a pool, in this holder's hands."""
    options = {"lifetime": "detached", "get_if_exists": True, "num_cpus": 0, "max_restarts": -1}
    kind = ray.remote(Lease).options(name=name, namespace=NAMESPACE, **options)
    until = time.monotonic() + TAKEN_DOWN_S
    while True:
        lease = kind.remote(name)
        try:
            ray.get(lease.renew.remote(holder, take=True), timeout=ANSWER_S)
            return lease
        except (RayError, TimeoutError) as error:  # it has ended with the pool, or begins anew
            if time.monotonic() > until:
                raise JobStopped(f"the lease of pool {name!r} is not to be had: {error}") from None
        time.sleep(RETRY_S)


def _renew(lease: Any, holder: str, over: threading.Event) -> None:
    while not over.wait(RENEW_S):
        try:
            if not ray.get(lease.renew.remote(holder), timeout=ANSWER_S):
                logger.warning("another run of this job has taken its pool over")
                return
        except (RayError, TimeoutError) as error:
            logger.warning("the lease of this job's pool is not renewed: %s", error)


class Lease:
    """Takes a pool down when nobody renews. Begins anew where its node is lost: its holder
    comes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._holder: str | None = None
        self._until = time.monotonic() + LEASE_S
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def renew(self, holder: str, *, take: bool = False) -> bool:
        """Whether this one holds the lease, or takes it; if so, for some time more."""
        with self._lock:
            if take or self._holder is None:
                self._holder = holder
            if holder == self._holder:
                self._until = time.monotonic() + LEASE_S
            return holder == self._holder

    def release(self, holder: str) -> bool:
        """Takes the pool down if this one holds the lease; whether it does."""
        with self._lock:
            if holder == self._holder:
                self._take_down()
            return holder == self._holder

    def _watch(self) -> None:
        while True:
            with self._lock:  # whoever comes while the pool goes finds that this actor has ended
                left = self._until - time.monotonic()
                if left <= 0:
                    try:
                        self._take_down()
                        ray.kill(ray.get_runtime_context().current_actor)
                        return
                    except (RayError, RayServeException) as error:
                        logger.warning("pool %r is not deleted yet: %s", self._name, error)
            time.sleep(max(left, RENEW_S))

    def _take_down(self) -> None:
        serve.delete(self._name)
        # A Serve without HTTP was started for such pools, by this job or another, and goes with the
        # last of them.
        if http_address() is None and not serve.status().applications:
            serve.shutdown()
