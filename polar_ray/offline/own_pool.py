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
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from polar_ray.config import PoolConfig, RescoreConfig
from polar_ray.data.storage import place
from polar_ray.errors import JobStopped
from polar_ray.pool.app import start

logger = logging.getLogger(__name__)

NAMESPACE = "polar_ray"
LEASE_S = 60.0
RENEW_S = 5.0
ANSWER_S = 30.0


@contextmanager
def own_pool(config: RescoreConfig, out: str) -> Iterator[str]:
    """The name of a pool of `num_workers` replicas for the job that writes to `out`, on the Ray
    cluster at hand or a local one made for it."""
    settings = PoolConfig(
        **{name: getattr(config, name) for name in type(config.scorer).model_fields},
        num_replicas=config.num_workers,
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
    )
    said = f"{place(out).path}\n{settings.model_dump_json()}"
    name = f"rescore-{sha256(said.encode()).hexdigest()[:12]}"
    with _cluster():
        if ours := _get_global_client(raise_if_no_controller_running=False) is None:
            # Nobody calls this pool over HTTP.
            serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        with _leased(name, ours):
            there = serve.status().applications.get(name)
            if there is None or there.status != ApplicationStatus.RUNNING:
                if there is not None:
                    serve.delete(name)
                start(settings, name=name, route_prefix=f"/{name}")
            yield name


@contextmanager
def _cluster() -> Iterator[None]:
    """The cluster at hand, or a local one for as long as the block."""
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _leased(name: str, with_serve: bool) -> Iterator[None]:
    """Holds the lease of a pool, and takes the pool away at the end unless another run of the same
    job holds it by then."""
    holder = uuid.uuid4().hex
    lease = _take(name, with_serve, holder)
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, holder, over), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        if _held(lease, holder):
            take_down(name, with_serve)
            ray.kill(lease)


def _take(name: str, with_serve: bool, holder: str) -> Any:
    """The lease of a pool, in this holder's hands."""
    until = time.monotonic() + LEASE_S
    while True:
        lease = (
            ray.remote(Lease)
            .options(
                name=name,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=-1,
            )
            .remote(name, with_serve, LEASE_S)
        )
        try:
            ray.get(lease.take.remote(holder), timeout=ANSWER_S)
            return lease
        except (RayError, TimeoutError) as error:  # it has run out this moment, and ends
            if time.monotonic() > until:
                raise JobStopped(f"the lease of pool {name!r} is not to be had: {error}") from None
        time.sleep(RENEW_S / 5)


def _renew(lease: Any, holder: str, over: threading.Event) -> None:
    while not over.wait(RENEW_S):
        if not _held(lease, holder):
            logger.warning("another run of this job has taken its pool over")
            return


def _held(lease: Any, holder: str) -> bool:
    """Renews a lease; whether this holder has it. One that does not answer is not another's."""
    try:
        return bool(ray.get(lease.renew.remote(holder), timeout=ANSWER_S))
    except (RayError, TimeoutError) as error:
        logger.warning("the lease of this job's pool is not renewed: %s", error)
        return True


def take_down(name: str, with_serve: bool) -> None:
    """Deletes a pool, and Serve if it was started for it and serves nothing else."""
    serve.delete(name)
    if with_serve and not serve.status().applications:
        serve.shutdown()


class Lease:
    """Deletes a pool when nobody renews. Begins anew where its node is lost: its holder comes."""

    def __init__(self, name: str, with_serve: bool, lease_s: float) -> None:
        self._name, self._with_serve, self._lease_s = name, with_serve, lease_s
        self._holder: str | None = None
        self._until = time.monotonic() + lease_s
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def take(self, holder: str) -> None:
        """A new run holds the lease from now on."""
        with self._lock:
            self._holder = holder
            self._until = time.monotonic() + self._lease_s

    def renew(self, holder: str) -> bool:
        """Whether this one holds the lease; if so, for some time more."""
        with self._lock:
            self._holder = self._holder or holder
            if holder == self._holder:
                self._until = time.monotonic() + self._lease_s
            return holder == self._holder

    def _watch(self) -> None:
        while True:
            with self._lock:  # whoever comes while the pool goes finds that this actor has ended
                left = self._until - time.monotonic()
                if left <= 0:
                    self._end()
            time.sleep(max(left, RENEW_S / 5))

    def _end(self) -> None:
        try:
            take_down(self._name, self._with_serve)
        except (RayError, RayServeException) as error:
            logger.warning("pool %r is not deleted yet: %s", self._name, error)
            return
        ray.kill(ray.get_runtime_context().current_actor)
